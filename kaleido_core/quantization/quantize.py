"""Which eight-bit format, and the model in it."""

import functools

import torch
from torch import nn

from ..errors import ConfigError, first_line
from .fp8 import AccurateFp8Linear, Fp8Linear
from .int8 import Int8Linear
from .linear import EightBitLinear, replace_linears

FORMATS: dict[str, type[EightBitLinear]] = {"fp8": Fp8Linear, "fp8_accurate": AccurateFp8Linear, "int8": Int8Linear}


def quantize(dit: nn.Module, form: str, device: torch.device | None = None) -> nn.Module:
    """Turn the linear layers of ``dit``'s blocks into ``form``, one of ``FORMATS``, in place; the rest stays as it is.

    Half the weights' memory of bfloat16, and faster products, for an error of a few percent (int8 less). Weights that
    were scaled to float8 in their file are scaled anew, row by row. ``device``: where it will compute, if elsewhere.
    "fp8_accurate" adds its products up in float32, which takes longer; int8's sums are exact.
    Raises ``ConfigError`` for an unknown format and for one that the device cannot multiply.
    """
    if form not in FORMATS:
        raise ConfigError(f"format {form!r} is unknown; we compute in {', '.join(FORMATS)}. Choose one of them.")
    device = device or next(dit.parameters()).device
    kind = FORMATS[form]
    if device.type != "cpu":
        check_format(device, form)
    blocks: nn.ModuleList = dit.blocks  # pyright: ignore[reportAssignmentType]
    replace_linears(blocks, kind)
    return dit


@functools.cache
def check_format(device: torch.device, form: str) -> None:
    """Multiply once, so that a device that cannot is found out before sampling. Raises ``ConfigError`` for one."""
    with torch.no_grad():
        layer = nn.Linear(64, 64, device="meta", dtype=torch.bfloat16)
        for parameter in layer.to_empty(device=device).parameters():  # so it draws no random numbers
            parameter.fill_(1)
        try:
            FORMATS[form](layer)(torch.ones(32, 64, device=device, dtype=torch.bfloat16)).cpu()
        except torch.OutOfMemoryError:
            raise  # says nothing of the device
        except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:  # each version has its own way
            other = "int8 works since RTX 20" if form != "int8" else "leave eight bits out"
            raise ConfigError(
                f"{device} with torch {torch.__version__} does not multiply {form} ({first_line(error)}); {other}."
            ) from error
