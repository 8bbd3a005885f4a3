"""Leave out most of the transformer at steps where it would say nearly the same again. Changes results a little."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError


@dataclass
class _Memory:
    """What one branch (with text, without) did last: on video tokens only, ``[B N D]`` each."""

    first: Tensor  # what the first block added
    others: Tensor  # what all other blocks added
    drift: float = 0.0  # how far ``first`` has moved since ``others`` was computed


@dataclass
class CacheReport:
    """How many forwards ran whole, and how many only their first block."""

    whole: int = 0
    saved: int = 0


@dataclass
class _Branch:
    """Which of the branches is running: known by its context, the same tensor at every step, and its references."""

    key: tuple[int, int] = (0, 0)
    video_tokens: int = 0
    memories: dict[tuple[int, int], _Memory] = field(default_factory=dict)


class _CachedBlocks(nn.Module):
    """Stands for all blocks: the first one tells whether the others are needed."""

    def __init__(self, blocks: nn.ModuleList, threshold: float, branch: _Branch, report: CacheReport):
        super().__init__()
        self.blocks, self.threshold, self.branch, self.report = blocks, threshold, branch, report

    def forward(self, tokens: Tensor, *rest: Any) -> Tensor:
        first, *others = self.blocks
        start, tokens = tokens, first(tokens, *rest)
        video = slice(tokens.shape[1] - self.branch.video_tokens, None)
        added = tokens[:, video] - start[:, video]
        memory = self.branch.memories.get(self.branch.key)
        if memory is not None and memory.first.shape == added.shape:
            memory.drift += _distance(added, memory.first)
            memory.first = added
            if memory.drift < self.threshold:
                self.report.saved += 1
                # What becomes of the reference tokens is never read.
                return torch.cat([tokens[:, : -self.branch.video_tokens], tokens[:, video] + memory.others], dim=1)
        before = tokens[:, video]
        for block in others:
            tokens = block(tokens, *rest)
        self.branch.memories[self.branch.key] = _Memory(added, tokens[:, video] - before)
        self.report.whole += 1
        return tokens


@contextmanager
def step_cache(dit: nn.Module, threshold: float) -> Iterator[CacheReport]:
    """While open, ``dit`` computes only its first block where that adds nearly what it added at the step before.

    ``threshold`` is how far the first block's update may drift before all blocks run again: the sum of relative
    distances, on the video's tokens only, since references hardly change from step to step and would hide the video's
    changes. 0 never leaves anything out; 0.1 and 0.3 are usual. Holds two copies of the video tokens for each branch.
    Steps of one run only: open a new one for each ``sample``.
    """
    if not 0 <= threshold < 10:
        raise ConfigError(f"a step cache with threshold {threshold}: it lies in 0..10. Usual values are 0.1 and 0.3.")
    branch, report = _Branch(), CacheReport()

    def tell(_dit: nn.Module, inputs: tuple[Any, ...]) -> None:
        latent, _sigma, context, *references = inputs[:4]
        branch.key = (id(context), sum(map(len, references)))
        branch.video_tokens = latent[0, 0].numel() // torch.Size(dit.config.patch_size).numel()  # pyright: ignore

    blocks: nn.ModuleList = dit.blocks  # pyright: ignore[reportAssignmentType]
    hook = dit.register_forward_pre_hook(tell)
    dit.blocks = nn.ModuleList([_CachedBlocks(blocks, threshold, branch, report)])
    try:
        yield report
    finally:
        hook.remove()
        dit.blocks = blocks


def _distance(ours: Tensor, theirs: Tensor) -> float:
    """Relative, as the mean of absolute values."""
    return ((ours - theirs).abs().mean(dtype=torch.float32) / theirs.abs().mean(dtype=torch.float32)).item()
