"""Layers that compute in float32 whatever the dtype of weights, activations or autocast (SPEC 4)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..rowwise import rowwise
from .rope import rotate_pairs


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
        return layer_norm(x, self.weight, self.bias, self.eps)


class RMSNorm(nn.Module):
    """RMS norm over the whole hidden width, weighted in float32 with one cast at the end."""

    def __init__(
        self, width: int, eps: float, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width, device=device, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


@rowwise(1)
def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """``x`` ``[B N D]`` normalised in float32, with ``weight`` and ``bias`` ``[D]``; keeps ``x``'s dtype."""
    return F.layer_norm(x.float(), x.shape[-1:], weight.float(), bias.float(), eps).to(x.dtype)


@rowwise(1)
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``x`` ``[B N D]`` over its root mean square, times ``weight`` ``[D]``, in float32; keeps ``x``'s dtype."""
    wide = x.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (wide * scale * weight.float()).to(x.dtype)


@rowwise(3)
def rotated_norm(x: Tensor, cos: Tensor, sin: Tensor, weight: Tensor, eps: float) -> Tensor:
    """``rms_norm``, then each head turned by the angles whose ``cos`` and ``sin`` ``[N K/2]`` are given."""
    head_width = 2 * cos.shape[-1]
    heads = rms_norm(x, weight, eps).unflatten(-1, (-1, head_width)).transpose(1, 2)  # [B A N K]
    return rotate_pairs(heads, cos, sin).transpose(1, 2).flatten(2)


@rowwise(1)
def modulated_norm(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """Normalise ``x`` ``[B N D]`` without affine, then scale and shift by float32 ``[B 1 D]``; keeps ``x``'s dtype."""
    return (F.layer_norm(x.float(), x.shape[-1:], eps=eps) * (1 + scale) + shift).to(x.dtype)


@rowwise(2)
def add_gated(x: Tensor, update: Tensor, gate: Tensor) -> Tensor:
    """``x + gate * update`` with the product in float32; keeps ``x``'s dtype."""
    return (x + gate * update).to(x.dtype)
