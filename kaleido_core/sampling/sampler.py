"""Solvers: follow the velocity from noise to the clean latent (SPEC 5)."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from ..errors import ConfigError
from ..shapes import Conditioning, Step
from .guidance import Guidance, Velocity, guided_velocity, predict, two_passes

OnStep = Callable[[Step], None]


@torch.no_grad()
def sample(
    dit: Velocity,
    noise: Tensor,
    sigmas: Tensor,
    cond: Conditioning,
    uncond: Conditioning | None = None,
    cfg: float = 6.0,
    solver: Literal["euler"] = "euler",
    on_step: OnStep | None = None,
    guidance: Guidance = two_passes,
) -> Tensor:
    """Solve from ``noise`` ``[B 16 T H W]`` along ``sigmas`` ``[steps + 1]``; returns the clean latent, float32.

    Without ``uncond``, or with ``cfg=1``, only the cond branch runs. ``guidance`` says how both branches run:
    ``two_passes`` or ``one_batch``, with the same numbers. ``on_step`` sees every finished ``Step``; an exception
    raised there stops the run. Raises ``ConfigError`` for an unknown solver.
    """
    if solver not in SOLVERS:
        raise ConfigError(f"Unknown solver {solver!r}; known are {', '.join(SOLVERS)}.")

    def velocity(latent: Tensor, sigma: Tensor) -> Tensor:
        levels = sigma.expand(latent.shape[0])
        if uncond is None or cfg == 1.0:
            return predict(dit, latent, levels, cond)
        return guided_velocity(*guidance(dit, latent, levels, cond, uncond), cfg)

    return SOLVERS[solver](velocity, noise.float(), sigmas.float().to(noise.device), on_step)


def solve_euler(
    velocity: Callable[[Tensor, Tensor], Tensor], latent: Tensor, sigmas: Tensor, on_step: OnStep | None
) -> Tensor:
    """First order: one velocity a step."""
    for index in range(len(sigmas) - 1):
        latent = latent + (sigmas[index + 1] - sigmas[index]) * velocity(latent, sigmas[index])
        if on_step is not None:
            on_step(Step(index, latent, float(sigmas[index + 1])))
    return latent


SOLVERS = {"euler": solve_euler}
