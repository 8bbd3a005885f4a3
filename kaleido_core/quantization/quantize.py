"""Which eight-bit format, and the model in it."""

import torch
from torch import nn

from ..errors import ConfigError
from .fp8 import AccurateFp8Linear, Fp8Linear, check_float8
from .int8 import Int8Linear
from .linear import EightBitLinear, replace_linears

FORMATS: dict[str, type[EightBitLinear]] = {"fp8": Fp8Linear, "fp8_accurate": AccurateFp8Linear, "int8": Int8Linear}


def quantize(dit: nn.Module, form: str, device: torch.device | None = None) -> nn.Module:
    """Turn the linear layers of ``dit``'s blocks into ``form``, one of ``FORMATS``, in place; the rest stays as it is.

    Half the weights' memory of bfloat16, and faster products, for an error of a few percent (int8 less). Weights that
    were scaled to float8 in their file are scaled anew, row by row. ``device``: where it will compute, if elsewhere.
    "fp8_accurate" adds its products up in float32, which takes longer; int8's sums are exact.
    Raises ``ConfigError`` for an unknown format and for float8 on a card that cannot multiply it.
    """
    if form not in FORMATS:
        raise ConfigError(f"format {form!r} is unknown; we compute in {', '.join(FORMATS)}. Choose one of them.")
    device = device or next(dit.parameters()).device
    kind = FORMATS[form]
    if issubclass(kind, Fp8Linear) and device.type == "cuda":
        check_float8(device, kind)
    blocks: nn.ModuleList = dit.blocks  # pyright: ignore[reportAssignmentType]
    replace_linears(blocks, kind)
    return dit
