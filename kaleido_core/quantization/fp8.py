"""float8 (e4m3) for cards that multiply it: Ada, Hopper, Blackwell. Faster than int8, less exact."""

import functools

import torch
from torch import Tensor, nn

from ..errors import ConfigError, first_line
from .linear import EightBitLinear


class Fp8Linear(EightBitLinear):
    """``fast_sum``: the card may add products up with fewer bits than float32 has, which is faster."""

    dtype = torch.float8_e4m3fn
    limit = torch.finfo(dtype).max
    fast_sum = True

    def multiply(self, values: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
        if not values.is_cuda:
            return _emulate(values, scale, self, dtype)
        bias = None if self.bias is None else self.bias.to(torch.bfloat16)
        # Rows with scales of their own come out in bfloat16 only.
        return torch._scaled_mm(  # pyright: ignore[reportPrivateImportUsage] no public name yet
            values, self.weight.t(), scale, self.scale[None], bias=bias, out_dtype=torch.bfloat16,
            use_fast_accum=self.fast_sum,
        ).to(dtype)  # fmt: skip


class AccurateFp8Linear(Fp8Linear):
    fast_sum = False


@functools.cache
def check_float8(device: torch.device, kind: type[Fp8Linear]) -> None:
    """Multiply once, so that a card that cannot is found out before sampling. Raises ``ConfigError`` for one."""
    with torch.no_grad():
        layer = nn.Linear(64, 64, device="meta", dtype=torch.bfloat16)
        for parameter in layer.to_empty(device=device).parameters():  # so it draws no random numbers
            parameter.fill_(1)
        try:
            kind(layer)(torch.ones(32, 64, device=device, dtype=torch.bfloat16)).cpu()
        except torch.OutOfMemoryError:
            raise  # says nothing of the card
        except (RuntimeError, NotImplementedError, ValueError) as error:  # each version of torch has its own way
            raise ConfigError(
                f"{device} with torch {torch.__version__} does not multiply float8 ({first_line(error)}); "
                "Ada, Hopper and later cards do. Take int8."
            ) from error


def _emulate(values: Tensor, scale: Tensor, layer: Fp8Linear, dtype: torch.dtype) -> Tensor:
    """The same numbers where nothing multiplies float8: slow, for tests and for looking at the loss."""
    product = (values.float() @ layer.weight.float().t()) * scale * layer.scale
    return (product if layer.bias is None else product + layer.bias.float()).to(dtype)
