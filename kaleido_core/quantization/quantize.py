"""Which eight-bit format, and the model in it."""

import torch
from torch import nn

from ..errors import ConfigError
from .fp8 import FIRST_CAPABILITY, Fp8Linear
from .int8 import Int8Linear
from .linear import EightBitLinear, replace_linears

FORMATS: dict[str, type[EightBitLinear]] = {"fp8": Fp8Linear, "int8": Int8Linear}


def quantize(dit: nn.Module, form: str, device: torch.device | None = None) -> nn.Module:
    """Turn the linear layers of ``dit``'s blocks into ``form``, "fp8" or "int8", in place; the rest stays as it is.

    Half the weights' memory of bfloat16, and faster products, for an error of a few percent (int8 less). Weights that
    were scaled to float8 in their file are scaled anew, row by row. ``device``: where it will compute, if elsewhere.
    Raises ``ConfigError`` for an unknown format and for float8 on a card that cannot multiply it.
    """
    if form not in FORMATS:
        raise ConfigError(f"format {form!r} is unknown; we compute in {' and '.join(FORMATS)}. Choose one of them.")
    device = device or next(dit.parameters()).device
    if form == "fp8" and device.type == "cuda" and torch.cuda.get_device_capability(device) < FIRST_CAPABILITY:
        raise ConfigError(
            f"{torch.cuda.get_device_name(device)} does not multiply float8; Ada, Hopper and later cards do. Take int8."
        )
    blocks: nn.ModuleList = dit.blocks  # pyright: ignore[reportAssignmentType]
    replace_linears(blocks, FORMATS[form])
    return dit
