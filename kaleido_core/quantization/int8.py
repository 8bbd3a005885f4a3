"""int8 for cards that do not multiply float8: Turing and Ampere."""

import torch
from torch import Tensor

from ..rowwise import fused
from .linear import EightBitLinear, row_scale

LIMIT = 127
FEWEST_ROWS = 32  # the card's int8 product wants more than 16, in steps of 8


@fused
def quantise_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    scale = row_scale(rows, LIMIT)
    return (rows.float() / scale).round().clamp(-LIMIT, LIMIT).to(torch.int8), scale


@fused
def rescale(product: Tensor, scale: Tensor, weight_scale: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """int32 ``[M out]`` -> ``dtype``, times both scales, plus the bias."""
    wide = product.float() * scale * weight_scale
    return (wide if bias is None else wide + bias.float()).to(dtype)


class Int8Linear(EightBitLinear):
    quantise = staticmethod(quantise_rows)

    def multiply(self, values: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
        count = len(values)
        spare = max(FEWEST_ROWS, -(-count // 8) * 8) - count
        padded = torch.nn.functional.pad(values, (0, 0, 0, spare))
        product = torch._int_mm(padded, self.weight.t())  # pyright: ignore[reportPrivateImportUsage] no public name
        return rescale(product[:count], scale, self.scale, self.bias, dtype)
