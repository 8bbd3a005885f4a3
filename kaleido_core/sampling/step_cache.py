"""Leave out most of the transformer at steps where it would say nearly the same again. Changes results a little."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError

BRANCHES = 3  # of guidance at most: the text, the other text, and that one without references
INPUTS = ("latent", "sigma", "context", "references")  # of the model, in their order

Key = tuple[int, int]  # a branch: its context, the same tensor at every step, and its number of references


@dataclass
class _Memory:
    """What one branch did last: on video tokens only, ``[B N D]`` each."""

    context: Tensor  # kept, so that no other tensor takes its place in memory and is mistaken for it
    first: Tensor  # what the first block added
    others: Tensor  # what all other blocks added; while they compute, what they were given
    drift: float = 0.0  # how far ``first`` has moved since ``others`` was computed


@dataclass
class CacheReport:
    """How many forwards ran whole, and how many only their first block."""

    whole: int = 0
    saved: int = 0


class _Cache:
    """What the blocks that it stands between share during a forward."""

    def __init__(self, threshold: float, patch: int) -> None:
        self.threshold, self.patch, self.report = threshold, patch, CacheReport()
        self.memories: dict[Key, _Memory] = {}
        self.skips = False
        self._context, self._key, self._video = torch.empty(0), (0, 0), slice(None)
        self._current: _Memory | None = None

    def begin(self, _dit: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Before a forward: which branch it is, and where its video tokens are."""
        given = dict(zip(INPUTS, inputs, strict=False)) | named
        self._context = given["context"]
        self._key = id(self._context), len(given.get("references", ()))
        self._video = slice(-(given["latent"][0, 0].numel() // self.patch), None)
        if self._key not in self.memories and len(self.memories) == BRANCHES:
            raise ConfigError(
                f"The step cache meets another text after {BRANCHES}, the branches that guidance has at most; it needs "
                "the same tensors at every step. Take two_passes, not one_batch, and a new step_cache for each sample."
            )

    def after_first(self, before: Tensor, tokens: Tensor) -> None:
        """The first block has made ``tokens`` ``[B N D]`` of ``before``: are the others needed?"""
        video = tokens[:, self._video]
        added = video - before[:, self._video]
        memory = self.memories.get(self._key)
        if memory is None or memory.first.shape != added.shape:
            self.skips, self._current = False, _Memory(self._context, added, video.clone())
            return
        memory.drift += _distance(added, memory.first)
        memory.first = added
        self.skips = memory.drift < self.threshold
        if self.skips:
            video.add_(memory.others)  # what becomes of the reference tokens is never read
            self.report.saved += 1
            return
        # Into the memory of what is out of date now: a copy beside it would raise the peak.
        memory.others.copy_(video)
        self._current = self.memories.pop(self._key)  # incomplete, should the forward not come to its end

    def after_last(self, tokens: Tensor) -> None:
        if self._current is None:
            return
        memory, self._current = self._current, None
        torch.sub(tokens[:, self._video], memory.others, out=memory.others)
        memory.drift = 0.0
        self.memories[self._key] = memory
        self.report.whole += 1


# Each block has a stand-in of its own: one for all would keep the first one's input alive until the last has computed.
class _StandIn(nn.Module):
    def __init__(self, cache: _Cache, block: nn.Module | None = None) -> None:
        super().__init__()
        self.cache, self.block = cache, block or nn.Identity()


class _First(_StandIn):
    """The first block, which tells whether the others are needed."""

    def forward(self, before: Tensor, *rest: Any) -> Tensor:
        tokens = self.block(before, *rest)
        self.cache.after_first(before, tokens)
        return tokens


class _Other(_StandIn):
    def forward(self, tokens: Tensor, *rest: Any) -> Tensor:
        return tokens if self.cache.skips else self.block(tokens, *rest)


class _End(_StandIn):
    """Behind all blocks."""

    def forward(self, tokens: Tensor, *_rest: Any) -> Tensor:
        self.cache.after_last(tokens)
        return tokens


@contextmanager
def step_cache(dit: nn.Module, threshold: float) -> Iterator[CacheReport]:
    """While open, ``dit`` computes only its first block where that adds nearly what it added at the step before.

    ``threshold`` is how far the first block's update may drift before all blocks run again: the sum of relative
    distances, on the video's tokens only, since references hardly change from step to step and would hide the video's
    changes. 0 never leaves anything out; 0.1 and 0.3 are usual. Holds two copies of the video tokens for each branch.
    Steps of one run only: open a new one for each ``sample``. Without gradients.

    A forward raises ``ConfigError`` for a fourth branch, as ``one_batch`` gives with a new context at every step.
    """
    if not 0 <= threshold < 10:
        raise ConfigError(f"a step cache with threshold {threshold}: it lies in 0..10. Usual values are 0.1 and 0.3.")
    blocks: nn.ModuleList = dit.blocks  # pyright: ignore[reportAssignmentType]
    cache = _Cache(threshold, torch.Size(dit.config.patch_size).numel())  # pyright: ignore
    hook = dit.register_forward_pre_hook(cache.begin, with_kwargs=True)
    first, *others = blocks
    dit.blocks = nn.ModuleList([_First(cache, first), *(_Other(cache, block) for block in others), _End(cache)])
    try:
        yield cache.report
    finally:
        hook.remove()
        dit.blocks = blocks


def _distance(ours: Tensor, theirs: Tensor) -> float:
    """Relative, as the mean of absolute values."""
    return ((ours - theirs).abs().mean(dtype=torch.float32) / theirs.abs().mean(dtype=torch.float32)).item()
