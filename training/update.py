"""One step: the gradients of its samples, and what they do to the weights."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kaleido_core.errors import DataError

from .batches import MicroBatch, draw_noise, seed_of
from .checkpoint import Progress
from .config import Config
from .distributed import Ranks, average_gradients, gather, total
from .metrics import Losses
from .optim import clip, learning_rate, set_rate
from .trainee import Trainee

logger = logging.getLogger("kaleido.training")

DAMAGED_SHARE = 0.01  # of all samples so far; more stops the run
FEWEST = 100  # samples that this share is taken of, so that one early mishap is not the end


@dataclass(frozen=True)
class Outcome:
    """``norm`` of the gradients before clipping; None where the weights were left as they are."""

    norm: float | None
    lr: float


def take_step(
    trainee: Trainee,
    progress: Progress,
    micro_batches: Sequence[MicroBatch],
    config: Config,
    ranks: Ranks,
    seen: Losses,
) -> Outcome:
    """Learn from the samples of step ``progress.step + 1``; all ranks together.

    Damaged samples count nothing. Where a loss or a gradient is not finite, or no sample is left, weights and optimizer
    stay as they are. Raises ``DataError`` once more than one in a hundred samples were damaged or not finite.
    """
    progress.step += 1
    problems = [problem for micro in micro_batches for problem in micro.problems]
    good, damaged = total(torch.tensor([_good(micro_batches), float(len(problems))]), ranks).tolist()
    finite, losses = _backward(trainee, progress.step, micro_batches, config, ranks.data_count / max(1.0, good))
    parameters = list(trainee.parameters.values())
    average_gradients(parameters, ranks)
    norm = clip(parameters, config.optimizer.clip_norm).item()
    if total(torch.tensor([float(not finite)]), ranks).item() or not math.isfinite(norm):
        problems += [f"{name}: its loss is not finite" for name in _not_finite(micro_batches, losses)]
        damaged, good = max(1.0, total(torch.tensor([float(len(problems))]), ranks).item()), 0.0
    rate = learning_rate(progress.step, config.run.steps, config.optimizer.lr, config.schedule)
    if good:
        set_rate(progress.optimizer, rate)
        progress.optimizer.step()
        progress.average.update(progress.step)
        for micro, (sigma, values) in zip(micro_batches, losses, strict=True):
            seen.add(values, sigma, micro.weights)
    progress.optimizer.zero_grad(set_to_none=True)
    if damaged:
        _report(progress, gather(problems, ranks) or ["a gradient is not finite"], int(damaged), config.run.batch)
    return Outcome(norm if good else None, rate)


def _good(micro_batches: Sequence[MicroBatch]) -> float:
    return sum(float(micro.weights.sum()) for micro in micro_batches)


def _backward(
    trainee: Trainee, step: int, micro_batches: Sequence[MicroBatch], config: Config, scale: float
) -> tuple[bool, list[tuple[Tensor, Tensor]]]:
    """Gradients of the sum of losses times ``scale``; whether all are finite, and sigmas and losses ``[B]``."""
    kept = []
    for micro in micro_batches:
        seeds = [seed_of(config.run.seed, step, place, 1) for place in micro.places]
        draw = draw_noise(config.noise, micro.batch.latent, seeds)
        losses = trainee.losses(micro.batch, draw)
        weights = micro.weights.to(losses.device)
        (scale * (losses * weights).sum()).backward()
        kept.append((draw.sigma, losses.detach()))
    on_host = [(sigma, losses.cpu()) for sigma, losses in kept]  # only now: nothing waited for the device before
    return all(bool(losses.isfinite().all()) for _, losses in on_host), on_host


def _not_finite(micro_batches: Sequence[MicroBatch], losses: Sequence[tuple[Tensor, Tensor]]) -> list[str]:
    """Each sample once, also where it fills up a micro batch."""
    found = [
        name
        for micro, (_, values) in zip(micro_batches, losses, strict=True)
        for name, value in zip(micro.names, values, strict=True)
        if not value.isfinite()
    ]
    return list(dict.fromkeys(found))


def _report(progress: Progress, problems: Sequence[str], count: int, batch: int) -> None:
    progress.damaged += count
    so_far, said = progress.step * batch, "; ".join(problems)
    logger.warning("step %d left out %s (%d of %d so far)", progress.step, said, progress.damaged, so_far)
    if progress.damaged > DAMAGED_SHARE * max(FEWEST, so_far):
        raise DataError(
            f"{progress.damaged} of {so_far} samples were damaged or had no finite loss, now {said}. "
            "We stop above 1 %. Mend or remove these records and go on; lower the learning rate if no loss is finite."
        )
