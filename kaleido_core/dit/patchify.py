"""Latents to tokens and back."""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..config import DiTConfig
from ..errors import ShapeError
from ..shapes import Grid


def patch_grid(latent: Tensor, patch_size: Grid) -> Grid:
    """The ``(T, h, w)`` patches of a latent ``[B C T H W]``. Raises ``ShapeError`` where patches do not fit."""
    sides = latent.shape[2:]
    if any(side % patch or not side for side, patch in zip(sides, patch_size, strict=True)):
        nearest = tuple(max(1, round(s / p)) * p for s, p in zip(sides, patch_size, strict=True))
        raise ShapeError(
            f"A latent of {tuple(sides)} (frames, height, width) does not divide into patches of {patch_size}. "
            f"The nearest size is {nearest}: make pixel sides multiples of 16."
        )
    frames, height, width = (side // patch for side, patch in zip(sides, patch_size, strict=True))
    return frames, height, width


class PatchEmbedding(nn.Conv3d):
    """One token per patch: ``[B C T H W]`` -> ``[B N D]``, row-major over (t, h, w)."""

    def __init__(self, config: DiTConfig, device: torch.device | str | None = None, dtype: torch.dtype | None = None):
        patch = config.patch_size
        super().__init__(config.latent_channels, config.width, patch, stride=patch, device=device, dtype=dtype)

    def forward(self, latent: Tensor) -> Tensor:
        # The convolution's kernel is its stride: a linear layer on patches, which every device does well.
        return F.linear(patchify(latent.to(self.weight.dtype), self.kernel_size), self.weight.flatten(1), self.bias)


def patchify(latent: Tensor, patch_size: tuple[int, ...]) -> Tensor:
    """``[B C T H W]`` -> ``[B N P]``, where P is laid out (C, p_t, p_h, p_w), C slowest."""
    pt, ph, pw = patch_size
    return rearrange(latent, "b c (t pt) (h ph) (w pw) -> b (t h w) (c pt ph pw)", pt=pt, ph=ph, pw=pw)


def unpatchify(tokens: Tensor, grid: Grid, patch_size: Grid) -> Tensor:
    """``[B N P]`` -> ``[B C T H W]``, where P is laid out (p_t, p_h, p_w, C), C fastest."""
    (t, h, w), (pt, ph, pw) = grid, patch_size
    return rearrange(tokens, "b (t h w) (pt ph pw c) -> b c (t pt) (h ph) (w pw)", t=t, h=h, w=w, pt=pt, ph=ph, pw=pw)
