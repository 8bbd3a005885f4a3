"""Triton kernels for steps of ``rowwise.py``, by the same names and arguments: import only where Triton may be.

Each reads its input once and writes its result once, with float32 between. Inputs lie on a graphics card, ``[.. N D]``
or ``[N D]`` with the D numbers of a row side by side; tables ``[B 1 D]`` or ``[D]`` may be shared by the batch.
"""

import torch
import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return _normalised(x, weight, bias, eps, add_one=False)


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    return _normalised(x, scale, shift, eps, add_one=True)


def _normalised(x: Tensor, scale: Tensor, shift: Tensor, eps: float, add_one: bool) -> Tensor:
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    places = *_rows(x), scale, _batch_stride(scale), shift, _batch_stride(shift)
    return _launch(_layer_norm, out, x, *places, eps, ONE=add_one)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    return _launch(_rms_norm, out, x, *_rows(x), weight, eps, weight, weight, 0, HALF=0)


def rotated_norm(x: Tensor, cos: Tensor, sin: Tensor, weight: Tensor, eps: float) -> Tensor:
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    return _launch(_rms_norm, out, x, *_rows(x), weight, eps, cos, sin, cos.stride(0), HALF=cos.shape[-1])


def add_gated(x: Tensor, update: Tensor, gate: Tensor) -> Tensor:
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    return _launch(_add_gated, out, x, *_rows(x), update, *_rows(update)[1:], gate, _batch_stride(gate))


def quantise_rows(rows: Tensor, limit: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    values = torch.empty(rows.shape, dtype=dtype, device=rows.device)
    scale = torch.empty(*rows.shape[:-1], 1, dtype=torch.float32, device=rows.device)
    _launch(_quantise, values, rows, *_rows(rows), scale, limit, WHOLE=not dtype.is_floating_point)
    return values, scale


def rescale(product: Tensor, scale: Tensor, weight_scale: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    out = torch.empty(product.shape, dtype=dtype, device=product.device)
    given = weight_scale if bias is None else bias
    return _launch(_rescale, out, product, scale, weight_scale, given, BIAS=bias is not None)


def _launch(kernel: triton.JITFunction, out: Tensor, *arguments: Tensor | float, **constants: int) -> Tensor:
    width = out.shape[-1]
    with torch.cuda.device_of(out):
        kernel[(out.numel() // width,)](
            out, *arguments, WIDTH=width, BLOCK=triton.next_power_of_2(width), **constants, num_warps=8
        )
    return out


def _rows(x: Tensor) -> tuple[int, int, int]:
    """How many rows follow each other, and how far one is from the next, in a clip and from clip to clip."""
    return x.shape[-2], x.stride(-2), x.stride(0) if x.ndim > 2 else 0


def _batch_stride(table: Tensor) -> int:
    return table.stride(0) if table.ndim > 1 and table.shape[0] > 1 else 0


@triton.jit
def _source(row, rows, row_stride, clip_stride):
    return (row // rows) * clip_stride + (row % rows) * row_stride


@triton.jit
def _layer_norm(
    out, x, rows, row_stride, clip_stride, scale, scale_stride, shift, shift_stride, eps,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ONE: tl.constexpr,
):  # fmt: skip
    row, column = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    inside, clip = column < WIDTH, row // rows
    values = tl.load(x + _source(row, rows, row_stride, clip_stride) + column, mask=inside, other=0.0).to(tl.float32)
    centred = tl.where(inside, values - tl.sum(values, axis=0) / WIDTH, 0.0)
    normal = centred * tl.rsqrt(tl.sum(centred * centred, axis=0) / WIDTH + eps)
    factor = tl.load(scale + clip * scale_stride + column, mask=inside, other=0.0).to(tl.float32)
    if ONE:
        factor += 1.0
    result = normal * factor + tl.load(shift + clip * shift_stride + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * WIDTH + column, result.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _rms_norm(
    out, x, rows, row_stride, clip_stride, weight, eps, cos, sin, angle_stride,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    row, column = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    inside = column < WIDTH
    values = tl.load(x + _source(row, rows, row_stride, clip_stride) + column, mask=inside, other=0.0).to(tl.float32)
    factor = tl.rsqrt(tl.sum(values * values, axis=0) / WIDTH + eps)
    result = values * factor * tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
    if HALF > 0:  # neighbouring channels are turned by the angle of their place in the head
        even, odd = tl.split(tl.reshape(result, (BLOCK // 2, 2)))
        angle = (row % rows) * angle_stride + tl.arange(0, BLOCK // 2) % HALF
        across, along = tl.load(cos + angle).to(tl.float32), tl.load(sin + angle).to(tl.float32)
        result = tl.reshape(tl.join(even * across - odd * along, odd * across + even * along), (BLOCK,))
    tl.store(out + row * WIDTH + column, result.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _add_gated(
    out, x, rows, row_stride, clip_stride, update, update_row_stride, update_clip_stride, gate, gate_stride,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, column = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    inside, clip = column < WIDTH, row // rows
    values = tl.load(x + _source(row, rows, row_stride, clip_stride) + column, mask=inside, other=0.0).to(tl.float32)
    source = _source(row, rows, update_row_stride, update_clip_stride)
    change = tl.load(update + source + column, mask=inside, other=0.0).to(tl.float32)
    factor = tl.load(gate + clip * gate_stride + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * WIDTH + column, (values + factor * change).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _quantise(
    out, x, rows, row_stride, clip_stride, scale, limit,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    row, column = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    inside = column < WIDTH
    values = tl.load(x + _source(row, rows, row_stride, clip_stride) + column, mask=inside, other=0.0).to(tl.float32)
    largest = tl.max(tl.abs(values), axis=0)
    step = tl.where(largest > 0, largest / limit, 1.0)
    scaled = tl.minimum(tl.maximum(values / step, -limit), limit)
    if WHOLE:
        scaled = (scaled + 12582912.0) - 12582912.0  # 1.5 * 2^23: to the nearest whole number, ties to even
    tl.store(out + row * WIDTH + column, scaled.to(out.dtype.element_ty), mask=inside)
    tl.store(scale + row, step)


@triton.jit
def _rescale(
    out, product, scale, weight_scale, bias, WIDTH: tl.constexpr, BLOCK: tl.constexpr, BIAS: tl.constexpr
):  # fmt: skip
    row, column = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    inside = column < WIDTH
    values = tl.load(product + row * WIDTH + column, mask=inside, other=0).to(tl.float32) * tl.load(scale + row)
    values *= tl.load(weight_scale + column, mask=inside, other=0.0)
    if BIAS:
        values += tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * WIDTH + column, values.to(out.dtype.element_ty), mask=inside)
