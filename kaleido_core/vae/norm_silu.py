"""The autoencoder's norm and SiLU in one pass over memory: a Triton kernel, so import this only where Triton may be.

Written as torch operations the two go over a chunk seven times.
"""

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

ROWS = 32  # cells a program works on


def norm_silu(x: Tensor, gamma: Tensor, out: Tensor) -> None:
    """``silu(x / |x| * sqrt(C) * gamma)`` over the channels of ``x`` ``[B C T H W]``, in float32, into ``out``.

    ``gamma`` has C numbers. ``x`` and ``out``, of the same shape, lie on a graphics card, their channels side by side.
    """
    batch, channels, frames, height, width = x.shape
    cells = batch * frames * height * width
    strides = [tensor.stride(axis) for tensor in (x, out) for axis in (0, 2, 3, 4)]
    with torch.cuda.device_of(x):
        _kernel[(triton.cdiv(cells, ROWS),)](  # pyright: ignore[reportIndexIssue]
            x, gamma, out, cells, frames, height, width, *strides,
            C=channels, PADDED=triton.next_power_of_2(channels), ROWS=ROWS, num_warps=4,
        )  # fmt: skip


@triton.jit
def _kernel(
    x, gamma, out, cells, frames, height, width,
    x_batch, x_frame, x_row, x_column, out_batch, out_frame, out_row, out_column,
    C: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    cell = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, PADDED)
    inside = (cell < cells)[:, None] & (channel < C)[None, :]
    column, rest = cell % width, cell // width
    row, rest = rest % height, rest // height
    frame, clip = rest % frames, rest // frames
    source = clip * x_batch + frame * x_frame + row * x_row + column * x_column
    values = tl.load(x + source[:, None] + channel[None, :], mask=inside, other=0.0).to(tl.float32)
    length = tl.maximum(tl.sqrt(tl.sum(values * values, axis=1)), 1e-12)
    weight = tl.load(gamma + channel, mask=channel < C, other=0.0).to(tl.float32)
    values = values * (C**0.5 / length)[:, None] * weight[None, :]
    values = values / (1.0 + tl.exp(-values))
    target = clip * out_batch + frame * out_frame + row * out_row + column * out_column
    tl.store(out + target[:, None] + channel[None, :], values.to(out.dtype.element_ty), mask=inside)
