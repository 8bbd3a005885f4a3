"""Linear layers in eight bits: a scale for each row of the weight, and for each token's activations as they come."""

from abc import abstractmethod
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..rowwise import ROWS, by_rows, fused


class EightBitLinear(nn.Module):
    """Stands for an ``nn.Linear``: ``weight`` ``[out in]`` in eight bits, float32 ``scale`` ``[out]``, ``bias``.

    Frozen: gradients pass through to its input alone. What it gives has the dtype of what it gets.
    """

    dtype: torch.dtype  # of the values
    limit: float  # the largest of them
    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight, scale = self.quantise(linear.weight.detach())
        self.register_buffer("weight", weight)
        self.register_buffer("scale", scale[:, 0])
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        return _Differentiable.apply(x, self.weight, self.scale, self) if torch.is_grad_enabled() else self.compute(x)

    def compute(self, x: Tensor) -> Tensor:
        values, scale = self.quantise(x.reshape(-1, x.shape[-1]))
        return self.multiply(values, scale, x.dtype).unflatten(0, x.shape[:-1])

    def quantise(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return quantise_rows(rows, self.limit, self.dtype)

    @abstractmethod
    def multiply(self, values: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
        """Eight-bit rows ``[M in]`` and their scales ``[M 1]`` through the layer: ``[M out]`` of ``dtype``."""


class _Differentiable(torch.autograd.Function):
    """A layer with the gradient of its input: that of the weights scaled back, as if tokens were not rounded.

    The weights are saved as what autograd knows, not found through the layer: by then they may have left the device.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, scale: Tensor, layer: EightBitLinear) -> Tensor:
        ctx.save_for_backward(weight, scale)
        return layer.compute(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (weight, scale) = gradients, ctx.saved_tensors
        return gradient @ scale_back(weight, scale[:, None], gradient.dtype), None, None, None


def scale_back(values: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Eight-bit ``[M K]`` and float32 ``[M 1]`` -> ``[M K]`` of ``dtype``, without a float32 copy of the whole."""
    return by_rows(lambda values, scale: (values.float() * scale).to(dtype), (values, scale))


def _part_by_part(rows: Tensor, limit: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Where no kernel does it: at once, a few float32 copies of all rows would lie beside them."""
    values = torch.empty(rows.shape, dtype=dtype, device=rows.device)
    scale = torch.empty(len(rows), 1, dtype=torch.float32, device=rows.device)
    for part in range(0, len(rows), ROWS):
        values[part : part + ROWS], scale[part : part + ROWS] = _at_once(rows[part : part + ROWS], limit, dtype)
    return values, scale


def _at_once(rows: Tensor, limit: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    largest = rows.abs().amax(-1, keepdim=True).float()
    scale = torch.where(largest > 0, largest / limit, 1.0)
    scaled = (rows.float() / scale).clamp(-limit, limit)
    return (scaled if dtype.is_floating_point else scaled.round()).to(dtype), scale


@partial(fused, otherwise=_part_by_part)
def quantise_rows(rows: Tensor, limit: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """``[M K]`` -> values of ``dtype`` ``[M K]`` and float32 scales ``[M 1]``: rows = values * scales.

    The largest number of each row becomes ``limit``; a row of zeros has the scale 1.
    """
    return _at_once(rows, limit, dtype)


def replace_linears(blocks: Iterable[nn.Module], kind: type[EightBitLinear]) -> None:
    """Put a ``kind`` in the place of every ``nn.Linear`` inside ``blocks``, one after the other."""
    for block in blocks:
        for parent in list(block.modules()):
            for name, layer in list(parent.named_children()):
                if type(layer) is nn.Linear:
                    setattr(parent, name, kind(layer))
