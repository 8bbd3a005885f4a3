"""Cached samples, and which of them each step sees.

Every choice is a function of the seed, the step and the place in it: a run goes on after an interruption as if there
had been none, and the same samples make a step however many ranks share it.
"""

import functools
import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from kaleido_core.errors import ConfigError, DataError
from kaleido_core.shapes import MAX_REFERENCES

from ..step import Batch
from .record import RESERVED as EMPTY

FORMAT = "kaleido-cache-1"
REFERENCE = "reference"  # tensors reference.<i>.<variant>
AGAIN = "Cache this record again"
ORDER, CHOICE, SHARED = range(3)  # what a seed is for
Shape = tuple[int, ...]


@dataclass(frozen=True)
class References:
    """The alternatives of one subject: latents of one ``shape``, drawn by ``weights``."""

    shape: Shape
    weights: tuple[float, ...]


@dataclass(frozen=True)
class Entry:
    """What a cached file holds. ``rows`` of text, of the ``padded_rows`` that the model reads, the rest zeros."""

    id: str
    latent: Shape
    rows: int
    padded_rows: int
    references: tuple[References, ...]

    @property
    def bucket(self) -> tuple[Shape, ...]:
        """Samples with the same one can be stacked."""
        return (self.latent, *(reference.shape for reference in self.references))


@dataclass(frozen=True)
class Rules:
    """How samples are varied: rates in 0..1, at most ``max_references``, of which ``sample_references`` takes some.

    ``sample_references`` draws how many, one at least; with ``shuffle_references`` also which, and their order.
    """

    caption_dropout: float = 0.1
    reference_dropout: float = 0.0
    shuffle_references: bool = False
    sample_references: bool = False
    max_references: int = MAX_REFERENCES

    def __post_init__(self) -> None:
        for name in ("caption_dropout", "reference_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} {getattr(self, name)}; a share from 0 to 1 is needed.")
        if not 0 <= self.max_references <= MAX_REFERENCES:
            raise ConfigError(f"max_references {self.max_references}; 0 to {MAX_REFERENCES} are possible.")


AS_THEY_ARE = Rules(caption_dropout=0)


@dataclass(frozen=True)
class Choice:
    """What is taken of a sample: its caption or no words, and (subject, variant) of each reference."""

    drop_caption: bool = False
    references: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Item:
    """A sample's ``index`` in ``CachedDataset.entries``, and what is taken of it."""

    index: int
    choice: Choice


@dataclass(frozen=True)
class Sample:
    """``latent`` ``[16 T H W]``, ``context`` ``[L D]`` padded as for inference, ``references`` ``[16 1 h w]`` each."""

    id: str
    latent: Tensor
    context: Tensor
    references: tuple[Tensor, ...]


class CachedDataset:
    """The samples of a folder that ``training.cache`` wrote. Opening it reads headers only.

    Files whose header cannot be read are named in ``damaged`` and are no entries. Raises ``DataError`` for a folder
    without samples.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        entries: list[Entry] = []
        damaged: list[str] = []
        for path in sorted(self.folder.glob("*.safetensors")):
            if path.stem == EMPTY:
                continue
            try:
                entries.append(_read_entry(path))
            except DataError as error:
                damaged.append(str(error))
        if not entries:
            reason = damaged[0] if damaged else "there are no files"
            raise DataError(f"{folder} holds no cached samples: {reason}. Run python -m training.cache first.")
        self.entries, self.damaged = tuple(entries), tuple(damaged)
        self._empty = _read(self.folder / f"{EMPTY}.safetensors")["context"]
        self._order = functools.lru_cache(4)(self._shuffled)

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def context_width(self) -> int:
        return self._empty.shape[-1]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what there is to learn, by names and shapes."""
        return hashlib.sha256(repr(self.entries).encode()).hexdigest()

    def batch_plan(
        self, step: int, seed: int, batch: int, micro_batch: int = 1, ranks: int = 1, rules: Rules = AS_THEY_ARE
    ) -> tuple[tuple[tuple[Item, ...], ...], ...]:
        """The micro batches of each rank at ``step`` (from 1): ``plan[rank][micro][place]``.

        ``batch`` samples make a step, over all ranks. A micro batch has samples of one bucket; every sample comes once
        an epoch, and a bucket's last micro batch is filled up with its first samples. The plan depends on the
        arguments alone, and the step's samples and choices not on ``ranks``.
        """
        count, left = divmod(batch, micro_batch)
        if left or count % ranks or min(batch, micro_batch, ranks, step) < 1:
            raise ConfigError(
                f"step {step}: a batch of {batch} in micro batches of {micro_batch} on {ranks} ranks; "
                "each rank needs the same whole number of them. Change the batch."
            )
        micro_batches = []
        for number in range((step - 1) * count, step * count):
            epoch, place = divmod(number, len(self._order(seed, 0, micro_batch)))
            indices = self._order(seed, epoch, micro_batch)[place]
            micro_batches.append(self._choose(indices, (seed, number), rules))
        share = count // ranks
        return tuple(tuple(micro_batches[rank * share : (rank + 1) * share]) for rank in range(ranks))

    def _shuffled(self, seed: int, epoch: int, micro_batch: int) -> list[list[int]]:
        """The micro batches of an epoch; their number is the same in every epoch."""
        buckets: dict[tuple[Shape, ...], list[int]] = defaultdict(list)
        for index, entry in enumerate(self.entries):
            buckets[entry.bucket].append(index)
        random = _random(ORDER, seed, epoch)
        micro_batches = []
        for bucket in buckets.values():
            mixed = random.permutation(bucket).tolist()
            for start in range(0, len(mixed), micro_batch):
                micro_batches.append([mixed[(start + offset) % len(mixed)] for offset in range(micro_batch)])
        return [micro_batches[index] for index in random.permutation(len(micro_batches))]

    def _choose(self, indices: Sequence[int], key: tuple[int, int], rules: Rules) -> tuple[Item, ...]:
        """How many references, and which: the same for a whole micro batch, or it would not stack."""
        shared = _random(SHARED, *key)
        count = len(self.entries[indices[0]].references)
        order = shared.permutation(count) if rules.shuffle_references else np.arange(count)
        kept = min(count, rules.max_references)
        if rules.sample_references and kept:
            kept = int(shared.integers(1, kept + 1))
        if shared.random() < rules.reference_dropout:
            kept = 0
        items = []
        for place, index in enumerate(indices):
            own = _random(CHOICE, *key, place)
            drop = bool(own.random() < rules.caption_dropout)
            references = self.entries[index].references
            drawn = tuple((int(subject), _draw(references[subject].weights, own)) for subject in order[:kept])
            items.append(Item(index, Choice(drop, drawn)))
        return tuple(items)

    def load(self, entry: Entry, choice: Choice = Choice()) -> Sample:
        """Raises ``DataError`` naming a file that is damaged or holds numbers that are not finite."""
        names = [f"{REFERENCE}.{subject}.{variant}" for subject, variant in choice.references]
        tensors = _read(self.folder / f"{entry.id}.safetensors", ["latent", "context", *names])
        context = self._empty if choice.drop_caption else tensors["context"]
        padding = context.new_zeros(entry.padded_rows - len(context), context.shape[1])
        references = tuple(tensors[name].float() for name in names)
        return Sample(entry.id, tensors["latent"].float(), torch.cat([context, padding]).float(), references)


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples of one bucket -> float32 ``[B ...]``."""
    return Batch(
        torch.stack([sample.latent for sample in samples]),
        torch.stack([sample.context for sample in samples]),
        tuple(torch.stack(same) for same in zip(*(sample.references for sample in samples), strict=True)),
    )


def _random(*numbers: int) -> np.random.Generator:
    """A generator of its own for each list of numbers."""
    return np.random.default_rng(np.random.SeedSequence(numbers))


def _draw(weights: Sequence[float], random: np.random.Generator) -> int:
    ends = np.cumsum(weights)
    return min(int(np.searchsorted(ends, random.random() * ends[-1], side="right")), len(weights) - 1)


def _read_entry(path: Path) -> Entry:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no dict
        if metadata.get("format") != FORMAT:
            raise DataError(f"{path} is no {FORMAT} file. {AGAIN}, or remove it")
        weights = json.loads(metadata["reference_weights"])
        references = tuple(
            References(shapes[f"{REFERENCE}.{subject}.0"], tuple(map(float, of_subject)))
            for subject, of_subject in enumerate(weights)
        )
        return Entry(path.stem, shapes["latent"], shapes["context"][0], int(metadata["context_rows"]), references)
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path} cannot be read ({error}). {AGAIN}") from error


def _read(path: Path, names: Sequence[str] = ("context",)) -> dict[str, Tensor]:
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} cannot be read ({error}). {AGAIN}") from error
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise DataError(f"{path}: {name} holds numbers that are not finite. {AGAIN}")
    return tensors
