"""Layers that compute in float32 whatever the dtype of weights, activations or autocast (SPEC 4)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Float32Linear(nn.Linear):
    """A linear layer for the time path and the head: float32 in, float32 out."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):
                return self.forward(x)
        return F.linear(x.float(), self.weight.float(), None if self.bias is None else self.bias.float())


class LayerNorm(nn.LayerNorm):
    """LayerNorm with float32 statistics and affine step; the result has the input's dtype."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.float(), self.bias.float()
        return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).to(x.dtype)


class RMSNorm(nn.Module):
    """RMS norm over the whole hidden width, weighted in float32 with one cast at the end."""

    def __init__(
        self, width: int, eps: float, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (wide * scale * self.weight.float()).to(x.dtype)


def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """Normalise ``x`` ``[B N D]`` without affine, then scale and shift by float32 ``[B 1 D]``; keeps ``x``'s dtype."""
    return (F.layer_norm(x.float(), x.shape[-1:], eps=eps) * (1 + scale) + shift).to(x.dtype)


def add_gated(x: Tensor, update: Tensor, gate: Tensor) -> Tensor:
    """``x + gate * update`` with the product in float32; keeps ``x``'s dtype."""
    return (x + gate * update).to(x.dtype)
