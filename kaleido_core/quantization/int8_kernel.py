"""A linear layer in int8 as one Triton kernel for Hopper cards, scales and bias included. Import only where Triton is.

Written as torch operations the int32 product goes to memory and back, which takes as long as multiplying.
"""

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor  # pyright: ignore[reportMissingImports]

BLOCK = 128, 256, 128  # rows, columns and depth of a product in shared memory: 196 KiB in four stages
GROUP = 8  # blocks of rows that share the weights they read


def int8_linear(
    values: Tensor, scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """``(values @ weight.T) * scale * weight_scale + bias``, ``[M out]`` in ``dtype`` (bfloat16 or float16).

    ``values`` ``[M in]`` and ``weight`` ``[out in]`` in int8, rows contiguous, ``in`` and ``out`` multiples of 16;
    ``scale`` ``[M 1]`` and ``weight_scale`` ``[out]`` in float32.
    """
    (count, depth), columns = values.shape, len(weight)
    out = torch.empty(count, columns, dtype=dtype, device=values.device)
    rows, across, deep = BLOCK
    with torch.cuda.device_of(values):
        _kernel[(triton.cdiv(count, rows) * triton.cdiv(columns, across),)](  # pyright: ignore[reportIndexIssue]
            TensorDescriptor.from_tensor(values, [rows, deep]),
            TensorDescriptor.from_tensor(weight, [across, deep]),
            TensorDescriptor.from_tensor(out, [rows, across]),
            scale, weight_scale, weight_scale if bias is None else bias, count, columns,
            WIDTH=depth, ROWS=rows, COLUMNS=across, DEPTH=deep, GROUP=GROUP, BIAS=bias is not None,
            num_warps=8, num_stages=4,
        )  # fmt: skip
    return out


@triton.jit
def _kernel(
    values, weight, out, scale, weight_scale, bias, rows, columns,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, GROUP: tl.constexpr,
    BIAS: tl.constexpr,
):  # fmt: skip
    program, across = tl.program_id(0), tl.cdiv(columns, COLUMNS)
    first = program // (GROUP * across) * GROUP
    height = tl.minimum(tl.cdiv(rows, ROWS) - first, GROUP)
    row = (first + program % (GROUP * across) % height) * ROWS
    column = program % (GROUP * across) // height * COLUMNS
    product = tl.zeros((ROWS, COLUMNS), dtype=tl.int32)
    for at in range(0, WIDTH, DEPTH):
        product = tl.dot(values.load([row, at]), weight.load([column, at]).T, product, out_dtype=tl.int32)
    down, along = row + tl.arange(0, ROWS), column + tl.arange(0, COLUMNS)
    result = product.to(tl.float32) * tl.load(scale + down, mask=down < rows, other=0.0)[:, None]
    result = result * tl.load(weight_scale + along, mask=along < columns, other=0.0)[None, :]
    if BIAS:
        result += tl.load(bias + along, mask=along < columns, other=0.0).to(tl.float32)[None, :]
    out.store([row, column], result.to(out.dtype))
