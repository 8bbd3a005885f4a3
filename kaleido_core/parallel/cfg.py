"""Guidance by the text with its two branches on two ranks: twice as fast, with the same numbers."""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import ConfigError
from ..shapes import Conditioning

Model = Callable[..., Tensor]
Predict = Callable[[Model, Tensor, Tensor, Conditioning], Tensor]
Guidance = Callable[[Model, Tensor, Tensor, Conditioning, Conditioning], tuple[Tensor, Tensor]]


def two_ranks(predict: Predict, group: dist.ProcessGroup | None = None) -> Guidance:
    """A ``guidance`` for ``sample``: rank 0 of ``group`` predicts the cond branch, rank 1 the uncond one.

    ``predict`` is that of ``sampling.guidance``. Both ranks sample from the same noise and end with the same latent.
    The third branch, of ``references_guided(scale, two_ranks(predict))``, runs on both ranks, each for itself.
    Raises ``ConfigError`` unless there are two ranks.
    """
    ranks = dist.get_world_size(group)
    if ranks != 2:
        raise ConfigError(f"{ranks} ranks for cond and uncond; two are needed, one for each. Make a group of two.")

    def guide(
        dit: Model, latent: Tensor, sigma: Tensor, cond: Conditioning, uncond: Conditioning
    ) -> tuple[Tensor, Tensor]:
        mine = predict(dit, latent, sigma, (cond, uncond)[dist.get_rank(group)]).contiguous()
        positive, negative = (torch.empty_like(mine) for _ in range(ranks))
        dist.all_gather([positive, negative], mine, group=group)
        return positive, negative

    return guide
