"""float8 (e4m3) for cards that multiply it: Ada, Hopper, Blackwell. Faster than int8, less exact."""

import torch
from torch import Tensor

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


def _emulate(values: Tensor, scale: Tensor, layer: Fp8Linear, dtype: torch.dtype) -> Tensor:
    """The same numbers where nothing multiplies float8: slow, for tests and for looking at the loss."""
    product = (values.float() @ layer.weight.float().t()) * scale * layer.scale
    return (product if layer.bias is None else product + layer.bias.float()).to(dtype)
