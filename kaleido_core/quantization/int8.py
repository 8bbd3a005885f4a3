"""int8, for cards since Turing (RTX 20): the more exact of the two formats."""

import functools
import logging
from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import first_line
from ..rowwise import ROWS, by_rows, can_fuse, fused
from .linear import EightBitLinear

logger = logging.getLogger("kaleido.quantization")

FEWEST_ROWS = 32  # torch's int8 product wants more than 16, in steps of 8
BATCH_ROWS = 8192  # at a time, because that product is in int32; fewer where rescaling makes float32 copies too

Product = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor | None, torch.dtype], Tensor]


class Int8Linear(EightBitLinear):
    dtype = torch.int8
    limit = 127

    def multiply(self, values: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
        # Inside torch.compile nothing can be tried out.
        may_choose = values.is_cuda and dtype.itemsize == 2 and not torch.compiler.is_compiling()
        product = _fastest(values.device) if may_choose else int8_linear
        return product(values, scale, self.weight, self.scale, self.bias, dtype)


def int8_linear(
    values: Tensor, scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """``(values @ weight.T) * scale * weight_scale + bias`` as torch does it, ``[M out]`` of ``dtype``."""

    def multiply(values: Tensor, scale: Tensor) -> Tensor:
        count = len(values)
        spare = max(FEWEST_ROWS, -(-count // 8) * 8) - count
        padded = torch.nn.functional.pad(values, (0, 0, 0, spare)) if spare else values
        product = torch._int_mm(padded, weight.t())  # pyright: ignore[reportPrivateImportUsage] no public name
        return rescale(product[:count], scale, weight_scale, bias, dtype)

    with torch.no_grad():
        return by_rows(multiply, (values, scale), rows=BATCH_ROWS if can_fuse(values) else ROWS)


@fused
def rescale(product: Tensor, scale: Tensor, weight_scale: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """int32 ``[M out]`` -> ``dtype``, times both scales, plus the bias."""
    wide = product.float() * scale * weight_scale
    return (wide if bias is None else wide + bias.float()).to(dtype)


@functools.cache
def _fastest(device: torch.device) -> Product:
    """Our kernel on a Hopper card, where it gives what torch gives in half the time; else torch's own product."""
    if torch.cuda.get_device_capability(device)[0] != 9:
        return int8_linear
    values = torch.arange(64 * 64, device=device).view(64, 64).to(torch.int8)
    scale, bias = torch.linspace(0.5, 1, 64, device=device), torch.ones(64, device=device, dtype=torch.bfloat16)
    given = values, scale[:, None], values, scale, bias, torch.bfloat16
    try:
        from .int8_kernel import int8_linear as kernel

        torch.testing.assert_close(kernel(*given), int8_linear(*given))
    except torch.OutOfMemoryError:
        raise  # says nothing of the kernel
    except Exception as error:  # no Triton, no toolchain, a card it does not know
        logger.warning("int8 without its kernel, which is slower: %s", first_line(error))
        return int8_linear
    return kernel
