"""One training step: noise a clip, predict its velocity, compare (SPEC 9). Shared by every recipe."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Model = Callable[[Tensor, Tensor, Tensor, Sequence[Tensor]], Tensor]  # KaleidoDiT.forward

# The line through (256 tokens, 0.5) and (4096 tokens, 1.15) that gives log(shift) for one frame's tokens.
SHIFT_START, SHIFT_SLOPE = 0.5, (1.15 - 0.5) / (4096 - 256)


@dataclass(frozen=True)
class Batch:
    """Clean ``latent`` ``[B 16 T H W]``, ``context`` ``[B L D]`` and ``references``, each ``[B 16 1 h w]``."""

    latent: Tensor
    context: Tensor
    references: tuple[Tensor, ...] = ()


def sample_sigma(count: int, generator: torch.Generator, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """``[count]`` noise levels in 0..1: the sigmoid of a normal, the standard one by default; before the shift."""
    return torch.sigmoid(mean + std * torch.randn(count, generator=generator, device=generator.device))


def shift_sigma(sigma: Tensor, latent_size: Sequence[int]) -> Tensor:
    """Push noise levels towards 1 for larger frames; ``latent_size`` ends with the latent's (H, W)."""
    height, width = latent_size[-2:]
    tokens = (height // 2) * (width // 2)
    return shift_by(sigma, math.exp(SHIFT_START + (tokens - 256) * SHIFT_SLOPE))


def shift_by(sigma: Tensor, shift: float) -> Tensor:
    """Push noise levels in 0..1 towards 1; ``shift`` 1 changes nothing."""
    return shift / (shift + 1 / sigma - 1)


def drop_text(
    captions: Sequence[str], rate: float, generator: np.random.Generator | np.random.RandomState
) -> list[str]:
    """Replace each caption by "" with probability ``rate`` (0..1); references are never dropped."""
    return ["" if generator.choice(2, p=[1 - rate, rate]) else caption for caption in captions]


def squared_errors(model: Model, batch: Batch, noise: Tensor, sigma: Tensor) -> Tensor:
    """Squared error of the velocity in every cell of the latent, float32 ``[B 16 T H W]``.

    ``noise`` has the latent's shape; ``sigma`` ``[B]`` in 0..1 is used as it is (shift it beforehand).
    """
    level = sigma.view(-1, 1, 1, 1, 1)
    noisy = (1 - level) * batch.latent + level * noise
    velocity = model(noisy, sigma, batch.context, batch.references)
    return (velocity - (noise - batch.latent)).float().square()


def flow_matching_losses(model: Model, batch: Batch, noise: Tensor, sigma: Tensor) -> Tensor:
    """Mean of ``squared_errors`` over each sample, ``[B]``: on video tokens only, the same at every sigma."""
    return squared_errors(model, batch, noise, sigma).flatten(1).mean(1)


def flow_matching_loss(model: Model, batch: Batch, noise: Tensor, sigma: Tensor) -> Tensor:
    """The batch mean of ``flow_matching_losses``: a scalar."""
    return flow_matching_losses(model, batch, noise, sigma).mean()
