"""Noise levels and the noise itself (SPEC 5)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import ConfigError


def sigma_schedule(steps: int, shift: float) -> Tensor:
    """Noise levels float32 ``[steps + 1]`` from 1 to 0; ``shift`` > 1 spends more steps on high noise."""
    if steps < 1 or not 0 < shift < math.inf:
        raise ConfigError(f"steps {steps}, shift {shift}: steps is at least 1 and shift is above 0. Typical: 50 and 7.")
    level = 1 - torch.arange(steps + 1, dtype=torch.float64) / steps
    return (shift * level / (1 + (shift - 1) * level)).float()


def initial_noise(shape: Sequence[int], seed: int) -> Tensor:
    """Standard normal float32 of ``shape``, drawn on the CPU: the same for a ``seed`` (0 .. 2**64 - 1) anywhere."""
    check_seed(seed)
    return torch.randn(tuple(shape), generator=torch.Generator("cpu").manual_seed(seed), dtype=torch.float32)


def check_seed(seed: int) -> None:
    """Refuse a seed that torch's generator does not take."""
    if not 0 <= seed < 2**64:
        raise ConfigError(f"seed {seed}: seeds are whole numbers from 0 to {2**64 - 1}. Choose another.")
