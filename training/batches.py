"""What one step sees. Every choice is a function of the seed, the step and a sample's place in it, and of nothing else:

not of the number of processes, not of what came before. So a run goes on after any interruption as if there were none.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from kaleido_core.errors import DataError

from .config import NoiseConfig
from .step import Batch, sample_sigma, shift_by, shift_sigma

STAND_IN = (16, 1, 2, 2)  # the least latent a model takes


@dataclass(frozen=True)
class Sample:
    """One clean clip: ``latent`` ``[16 T H W]``, ``context`` ``[L D]``, ``references`` ``[16 1 h w]`` each."""

    name: str
    latent: Tensor
    context: Tensor
    references: tuple[Tensor, ...]


class Source(Protocol):
    """Where samples come from."""

    def plan(self, step: int) -> Sequence[Sequence[int]]:
        """The micro batches of a step, over all ranks: samples of one shape each, by index."""
        ...

    def load(self, index: int, own: np.random.Generator, shared: np.random.Generator) -> Sample:
        """A sample, its dropouts drawn from its ``own`` chance and one that its micro batch has in common.

        Raises ``DataError`` for a damaged one.
        """
        ...

    def name_of(self, index: int) -> str: ...

    def __len__(self) -> int: ...

    @property
    def context_width(self) -> int: ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what there is to learn, as it was when opened: of names and sizes."""
        ...


@dataclass(frozen=True)
class MicroBatch:
    """What one forward computes, and how much each sample counts: ``weights`` ``[B]``, 0 for a damaged one.

    ``places`` are the samples' in the whole batch of the step. A sample that fills the micro batch up by coming twice
    is one of the ``problems``, not two.
    """

    batch: Batch
    weights: Tensor
    places: tuple[int, ...]
    names: tuple[str, ...]
    problems: tuple[str, ...]


@dataclass(frozen=True)
class Draw:
    """Noise of the latent's shape and sigmas ``[B]``, shifted."""

    noise: Tensor
    sigma: Tensor


def seed_of(*numbers: int) -> int:
    """One seed from several numbers below 2**32. Zeros at the end count for nothing: (7, 0) gives what (7,) gives."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def load_step(source: Source, step: int, seed: int, part: slice) -> list[MicroBatch]:
    """This rank's micro batches of a step (from 1), ``part`` of all."""
    groups = source.plan(step)
    starts = np.cumsum([0, *map(len, groups)])
    return [
        load_micro_batch(source, groups[index], int(starts[index]), (seed, step)) for index in range(len(groups))[part]
    ]


def load_micro_batch(source: Source, indices: Sequence[int], start: int, key: tuple[int, int]) -> MicroBatch:
    """``start``: the first one's place in its step; with ``key``, seed and step, all chance comes from it."""
    places = tuple(range(start, start + len(indices)))
    samples: list[Sample | None] = []
    problems: list[str] = []
    for place, index in zip(places, indices, strict=True):
        try:
            own, shared = (np.random.default_rng(seed_of(*key, *parts)) for parts in ((place, 0), (start, 3)))
            samples.append(_checked(source.load(index, own, shared)))
        except DataError as error:
            samples.append(None)
            problems.append(f"{source.name_of(index)}: {error}")
    names = tuple(map(source.name_of, indices))
    weights = torch.tensor([float(sample is not None) for sample in samples])
    told = tuple(dict.fromkeys(problems))
    return MicroBatch(_collate(samples, source.context_width), weights, places, names, told)


def _checked(sample: Sample) -> Sample:
    for what, value in (
        ("latent", sample.latent),
        ("context", sample.context),
        *((f"reference {number}", reference) for number, reference in enumerate(sample.references, start=1)),
    ):
        if not value.isfinite().all():
            raise DataError(f"its {what} holds numbers that are not finite; cache this record again")
    return sample


def _collate(samples: Sequence[Sample | None], context_width: int) -> Batch:
    """A batch; a sample that is missing is zeros, which every rank can compute with and nothing learns from."""
    model = next((sample for sample in samples if sample), None)
    if model is None:
        model = Sample("", torch.zeros(STAND_IN), torch.zeros(1, context_width), ())
    whole = [sample or Sample("", *_zeros(model)) for sample in samples]
    return Batch(
        torch.stack([sample.latent.float() for sample in whole]),
        torch.stack([sample.context for sample in whole]),
        tuple(torch.stack(same).float() for same in zip(*(sample.references for sample in whole), strict=True)),
    )


def _zeros(like: Sample) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    zeros = torch.zeros_like
    return zeros(like.latent), zeros(like.context), tuple(map(zeros, like.references))


def draw_noise(config: NoiseConfig, latent: Tensor, seeds: Sequence[int]) -> Draw:
    """Each sample's own, from its seed, on the CPU in float32: the same on any machine."""
    noise, sigma = [], []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        sigma.append(_draw_sigma(config, latent.shape[-2:], generator))
        noise.append(torch.randn(latent.shape[1:], generator=generator))
    return Draw(torch.stack(noise), torch.cat(sigma))


def _draw_sigma(config: NoiseConfig, latent_size: Sequence[int], generator: torch.Generator) -> Tensor:
    if config.distribution == "uniform":
        sigma = torch.rand(1, generator=generator)
    else:
        sigma = sample_sigma(1, generator, config.mean, config.std)
    return shift_noise(config, sigma, latent_size)


def shift_noise(config: NoiseConfig, sigma: Tensor, latent_size: Sequence[int]) -> Tensor:
    return shift_by(sigma, config.fixed_shift) if config.shift == "fixed" else shift_sigma(sigma, latent_size)


class Ahead:
    """Loads the next step's samples while this one computes."""

    def __init__(self, source: Source, seed: int, part: slice, first: int, last: int) -> None:
        self._source, self._seed, self._part, self._last = source, seed, part, last
        self._thread = ThreadPoolExecutor(1, "kaleido-batches")
        self._next: Future[list[MicroBatch]] | None = None
        self._ask(first)

    def _ask(self, step: int) -> None:
        self._step = step
        if step <= self._last:
            self._next = self._thread.submit(load_step, self._source, step, self._seed, self._part)

    def take(self, step: int) -> list[MicroBatch]:
        assert step == self._step and self._next is not None
        micro_batches = self._next.result()
        self._ask(step + 1)
        return micro_batches

    def close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
