"""The plain picture that the tiny autoencoder's latent stays close to.

A latent free to take any shape hides a subject's details in faint, restless variations, which a small transformer does
not learn. So each latent cell is anchored to the 16 principal components of its 4 x 8 x 8 pixels, all scaled by one
number: most of the latent's energy lies where the picture's is, and the decoder only has to sharpen.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from kaleido_core.shapes import SPATIAL_STRIDE, TEMPORAL_STRIDE

from .data import Artwork, draw_scenes
from .render import render_clips

COMPONENTS = 16


@dataclass(frozen=True)
class Anchor:
    """``mean`` ``[768]`` and ``basis`` ``[768 16]``, which includes the common scale."""

    mean: Tensor
    basis: Tensor

    def __call__(self, pixels: Tensor) -> Tensor:
        """Pixels ``[B 3 F H W]`` in -1..1 -> ``[B 16 T H/8 W/8]`` of unit variance over all channels together."""
        return ((to_cells(pixels) - self.mean) @ self.basis).movedim(-1, 1)


def to_cells(pixels: Tensor) -> Tensor:
    """The pixels behind each latent cell, ``[B T h w 768]``; the first frame stands for four."""
    pixels = torch.cat([pixels[:, :, :1]] * (TEMPORAL_STRIDE - 1) + [pixels], dim=2)
    side = SPATIAL_STRIDE
    return rearrange(pixels, "b c (t f) (h y) (w x) -> b t h w (c f y x)", f=TEMPORAL_STRIDE, y=side, x=side)


def moving_parts(pixels: Tensor) -> Tensor:
    """How far each pixel is from its own mean over the clip, ``[B 1 F H W]``: where the subjects are."""
    return (pixels - pixels.mean(2, keepdim=True)).abs().mean(1, keepdim=True)


def fit_anchor(art: Artwork, motion_weight: float, clips: int = 192, seed: int = 55_000) -> Anchor:
    """Principal components of training clips, what moves counting more; the same on every machine up to rounding."""
    total = torch.zeros((), dtype=torch.float64)
    mean, square = 0.0, 0.0
    for start in range(0, clips, 16):
        scenes = draw_scenes(art, 16, 1 + start // 16 % 3, seed + start)
        pixels = render_clips(scenes, art.emoji, art.photos, art.device)
        cells = to_cells(pixels).flatten(0, 3).double()
        weight = 1 + motion_weight * to_cells(moving_parts(pixels).expand_as(pixels)).flatten(0, 3).mean(1).double()
        total = total + weight.sum().cpu()
        mean = mean + (weight @ cells).cpu()
        square = square + ((weight[:, None] * cells).T @ cells).cpu()
    mean = mean / total
    values, vectors = torch.linalg.eigh(square / total - torch.outer(mean, mean))
    scale = values[-COMPONENTS:].mean().sqrt()
    basis = vectors[:, -COMPONENTS:].flip(1) / scale
    # The sign of an eigenvector is anybody's choice; ours has a positive sum.
    basis = basis * torch.where(basis.sum(0) < 0, -1.0, 1.0)
    return Anchor(mean.float().to(art.device), basis.float().to(art.device))
