"""Classifier-free guidance: push the velocity away from the unconditional one (SPEC 5)."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from ..errors import ShapeError
from ..shapes import Conditioning


class Velocity(Protocol):
    """What the solver needs of a model: ``KaleidoDiT.forward``."""

    def __call__(self, latent: Tensor, sigma: Tensor, context: Tensor, references: Sequence[Tensor]) -> Tensor: ...


Guidance = Callable[[Velocity, Tensor, Tensor, Conditioning, Conditioning], tuple[Tensor, Tensor]]


def predict(dit: Velocity, latent: Tensor, sigma: Tensor, cond: Conditioning) -> Tensor:
    """One branch's velocity in float32. ``sigma`` is ``[B]``."""
    if cond.allow_extra_references:
        # Only KaleidoDiT knows the switch; stand-ins for it need not.
        dit = partial(dit, allow_extra_references=True)  # pyright: ignore[reportCallIssue]
    return dit(latent, sigma, cond.context, cond.references).float()


def two_passes(
    dit: Velocity, latent: Tensor, sigma: Tensor, cond: Conditioning, uncond: Conditioning
) -> tuple[Tensor, Tensor]:
    """(cond, uncond) velocities, one after the other: the smaller memory."""
    return predict(dit, latent, sigma, cond), predict(dit, latent, sigma, uncond)


def one_batch(
    dit: Velocity, latent: Tensor, sigma: Tensor, cond: Conditioning, uncond: Conditioning
) -> tuple[Tensor, Tensor]:
    """(cond, uncond) velocities in one batch, as the official sampler does."""
    shapes = [(c.context.shape, [r.shape for r in c.references]) for c in (cond, uncond)]
    if shapes[0] != shapes[1]:
        raise ShapeError(f"Branches of shapes {shapes} do not stack; give both the same sizes, or use two_passes.")
    batch = latent.shape[0]
    both = Conditioning(
        torch.cat([uncond.context.expand(batch, -1, -1), cond.context.expand(batch, -1, -1)]),
        tuple(
            torch.cat([a.expand(batch, *a.shape[1:]), b.expand(batch, *b.shape[1:])])
            for a, b in zip(uncond.references, cond.references, strict=True)
        ),
        cond.allow_extra_references or uncond.allow_extra_references,
    )
    negative, positive = predict(dit, latent.repeat(2, 1, 1, 1, 1), sigma.repeat(2), both).chunk(2)
    return positive, negative


def guided_velocity(positive: Tensor, negative: Tensor, cfg: float) -> Tensor:
    """``negative + cfg * (positive - negative)``, in float32."""
    return negative + cfg * (positive - negative)


def guided_between(low: float, high: float, guidance: Guidance = two_passes) -> Guidance:
    """Guidance only where ``low <= sigma <= high``; elsewhere the cond branch alone, at half the cost or less.

    That by the references goes with that by the text: ``guidance`` is run as a whole or not at all.
    """

    def between(
        dit: Velocity, latent: Tensor, sigma: Tensor, cond: Conditioning, uncond: Conditioning
    ) -> tuple[Tensor, Tensor]:
        if low <= float(sigma[0]) <= high:
            return guidance(dit, latent, sigma, cond, uncond)
        positive = predict(dit, latent, sigma, cond)
        return positive, positive

    return between


def reused_below(sigma_end: float, guidance: Guidance = two_passes) -> Guidance:
    """Below ``sigma_end`` the last difference of the branches is taken again, and only the cond branch runs.

    Remembers one velocity: make a new one for each run.
    """
    difference: Tensor | None = None

    def reused(
        dit: Velocity, latent: Tensor, sigma: Tensor, cond: Conditioning, uncond: Conditioning
    ) -> tuple[Tensor, Tensor]:
        nonlocal difference
        if difference is not None and float(sigma[0]) < sigma_end:
            positive = predict(dit, latent, sigma, cond)
            return positive, positive - difference
        positive, negative = guidance(dit, latent, sigma, cond, uncond)
        difference = positive - negative
        return positive, negative

    return reused


def references_guided(scale: float, guidance: Guidance = two_passes, reused_below: float = 0.0) -> Guidance:
    """Guidance by the references too, as by two conditions in InstructPix2Pix (arXiv 2211.09800, equation 3): away
    from what the uncond text gives without them. Velocities are ``[B 16 T H W]``.

    With ``cfg`` the mix becomes ``bare + scale * (uncond - bare) + cfg * (cond - uncond)``; ``bare`` is the uncond
    branch without references, a third forward a step, of fewer tokens. Below the sigma ``reused_below`` the last
    difference is taken again. Remembers one velocity: make a new one for each run.
    """
    push: Tensor | None = None

    def guided(
        dit: Velocity, latent: Tensor, sigma: Tensor, cond: Conditioning, uncond: Conditioning
    ) -> tuple[Tensor, Tensor]:
        nonlocal push
        positive, negative = guidance(dit, latent, sigma, cond, uncond)
        if push is None or float(sigma[0]) >= reused_below:
            bare = predict(dit, latent, sigma, Conditioning(uncond.context))
            push = (scale - 1) * (negative - bare)
        return positive + push, negative + push

    return guided
