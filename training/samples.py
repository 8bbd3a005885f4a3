"""Cached samples, and the order in which they come.

A cache is a folder of ``NAME.safetensors``, each with ``latent`` ``[16 T H W]``, ``context`` ``[L D]`` and references
``reference.I.VARIANT`` ``[16 1 h w]``; ``empty.safetensors`` has the ``context`` of no words at all. The metadata may
say ``context_rows``, to which zeros fill the context up, and ``weights``, how often each variant is drawn.
"""

import functools
import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from kaleido_core.errors import DataError

from .batches import Sample, seed_of
from .config import DataConfig

EMPTY = "empty"
Shapes = tuple[tuple[int, ...], ...]


class CachedSamples:
    """A ``batches.Source``. A plan is a function of seed and step; files are read when they are asked for."""

    def __init__(self, folder: str | Path, config: DataConfig, batch: int, micro_batch: int, seed: int) -> None:
        self._config, self._seed = config, seed
        self._per_step, self._micro = batch // micro_batch, micro_batch
        self._paths = sorted(path for path in Path(folder).glob("*.safetensors") if path.stem != EMPTY)
        if not self._paths:
            raise DataError(f"{folder} holds no cached samples. Run python -m training.cache MANIFEST {folder} first.")
        # Now: a file that is gone later is left out where it is drawn, and must not stop a save.
        listed = "".join(f"{path.name} {path.stat().st_size}\n" for path in self._paths)
        self.fingerprint = hashlib.sha256(listed.encode()).hexdigest()
        self._empty = _read(Path(folder, f"{EMPTY}.safetensors")).tensor("context")
        groups: dict[Shapes, list[int]] = defaultdict(list)
        for index, path in enumerate(self._paths):
            groups[_shapes(path)].append(index)
        self._groups = list(groups.values())
        self._order = functools.lru_cache(2)(self._shuffle)  # of an epoch; a step may reach into the next
        self._epoch = sum(-(-len(group) // micro_batch) for group in self._groups)

    @property
    def context_width(self) -> int:
        return self._empty.shape[-1]

    def __len__(self) -> int:
        return len(self._paths)

    def name_of(self, index: int) -> str:
        return self._paths[index].stem

    def plan(self, step: int) -> list[list[int]]:
        """The micro batches of a step (from 1): every sample once an epoch, those of one shape together."""
        first = (step - 1) * self._per_step
        numbers = (divmod(number, self._epoch) for number in range(first, first + self._per_step))
        return [self._order(epoch)[place] for epoch, place in numbers]

    def _shuffle(self, epoch: int) -> list[list[int]]:
        generator = np.random.default_rng(seed_of(self._seed, epoch, 2))
        batches = []
        for group in self._groups:
            mixed = [group[index] for index in generator.permutation(len(group))]
            for start in range(0, len(mixed), self._micro):
                # The last one is filled up from the first: every sample comes, and every micro batch is whole.
                batches.append([mixed[(start + offset) % len(mixed)] for offset in range(self._micro)])
        return [batches[index] for index in generator.permutation(len(batches))]

    def load(self, index: int, own: np.random.Generator, shared: np.random.Generator) -> Sample:
        """``own`` is this sample's chance; ``shared``, the same for all of a micro batch, says how many references."""
        config, file = self._config, _read(self._paths[index])
        context = self._empty if own.random() < config.caption_dropout else file.tensor("context")
        variants = file.variants()
        kept = min(len(variants), config.max_references)
        if config.sample_references and kept:
            kept = int(shared.integers(1, kept + 1))
        if shared.random() < config.reference_dropout:
            kept = 0
        order = own.permutation(len(variants)) if config.shuffle_references else range(len(variants))
        drawn = [own.choice(len(variants[place]), p=file.odds(place)) for place in range(len(variants))]
        references = tuple(variants[place][drawn[place]] for place in list(order)[:kept])
        return Sample(self.name_of(index), file.tensor("latent"), file.padded(context), references)


@dataclass(frozen=True)
class _File:
    """What one file holds."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]

    def tensor(self, name: str) -> Tensor:
        try:
            return self.tensors[name]
        except KeyError as error:
            raise DataError(f"it has no {error}; cache this record again") from error

    def variants(self) -> list[list[Tensor]]:
        """Those of each reference, in order."""
        found: dict[int, list[Tensor]] = defaultdict(list)
        names = [key.split(".") for key in self.tensors if key.startswith("reference.")]
        for place, variant in sorted((int(place), int(variant)) for _, place, variant in names):
            found[place].append(self.tensors[f"reference.{place}.{variant}"])
        return list(found.values())

    def odds(self, place: int) -> list[float] | None:
        """How often each variant of a reference is drawn; None: equally."""
        weights = json.loads(self.metadata.get("weights", "[]"))
        return [weight / sum(weights[place]) for weight in weights[place]] if weights else None

    def padded(self, context: Tensor) -> Tensor:
        """With the rows of zeros that the model reads behind a text."""
        missing = int(self.metadata.get("context_rows", 0)) - len(context)
        return torch.cat([context, context.new_zeros(missing, context.shape[1])]) if missing > 0 else context


def _read(path: Path) -> _File:
    try:
        with safe_open(path, "pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no dictionary
            return _File(tensors, file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} cannot be read ({error}); cache this record again") from error


def _shapes(path: Path) -> Shapes:
    """What must agree within a micro batch; nothing for a file that cannot be read, which ``load`` will tell."""
    try:
        with safe_open(path, "pt") as file:
            keys = [key for key in sorted(file.keys()) if key == "latent" or key.endswith(".0")]
            return tuple(tuple(file.get_slice(key).get_shape()) for key in keys)
    except (OSError, SafetensorError):
        return ()
