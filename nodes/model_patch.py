"""What turns the host's Wan model into Kaleido: hooks, none of which knows the host's code.

The host puts reference latents behind the video in time (its ``time_dim_concat`` conditioning) and crops them off the
result. Attention has no mask and all else is token-wise, so only their positions tell that they are references.
"""

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..kaleido_core.dit.rope import REFERENCE_OFFSET
from ..kaleido_core.errors import ShapeError

COUNT = "kaleido_references"  # in transformer_options: how many of the latent's last frames are references
CONDITION = "time_dim_concat"  # the host's name for latents [B 16 R h w] behind the video


class ReferenceRope:
    """Stands before the host's ``rope_encode``: video frames as ever, reference i at time i, 80 patches off (SPEC 2).

    It calls whatever was there before for each part, so that other rope patches apply to both.
    """

    def __init__(self, original: Callable[..., Tensor]):
        self.original = original

    def __call__(
        self,
        t: int,
        h: int,
        w: int,
        t_start: float = 0,
        *args: Any,
        transformer_options: Mapping[str, Any] = {},
        **others: Any,
    ) -> Tensor:
        count = transformer_options.get(COUNT, 0)
        plain = {**transformer_options, COUNT: 0}
        video = self.original(t - count, h, w, t_start, *args, transformer_options=plain, **others)
        if not count:
            return video
        rope = plain.get("rope_options") or {}
        shifts = {f"shift_{axis}": rope.get(f"shift_{axis}", 0.0) + REFERENCE_OFFSET for axis in "yx"}
        shifted = {**plain, "rope_options": {**rope, **shifts}}
        references = [self.original(1, h, w, index, transformer_options=shifted, **others) for index in range(count)]
        return torch.cat([video, *references], dim=1)


def count_in_forward(
    executor: Callable[..., Tensor],
    x: Tensor,
    timestep: Tensor,
    context: Tensor,
    clip_fea: Tensor | None = None,
    time_dim_concat: Tensor | None = None,
    transformer_options: Mapping[str, Any] = {},
    **others: Any,
) -> Tensor:
    """Around the host's forward: tell the rope how many frames are references.

    Arguments go on in the same places: step caches look for ``transformer_options`` as the last one.
    """
    count = 0 if time_dim_concat is None else time_dim_concat.shape[2]
    if time_dim_concat is not None and time_dim_concat.shape[-2:] != x.shape[-2:]:
        (height, width), (ours, theirs) = time_dim_concat.shape[-2:], x.shape[-2:]
        raise ShapeError(
            f"The references were encoded for a video of {8 * width}x{8 * height}; this latent is "
            f"{8 * theirs}x{8 * ours}. Give Kaleido References the latent's size, or use the latent it gives out."
        )
    options = {**transformer_options, COUNT: count}
    return executor(x, timestep, context, clip_fea, time_dim_concat, options, **others)


def count_in_memory(
    executor: Callable[..., Any],
    model: Any,
    noise_shape: Sequence[int],
    conds: Mapping[str, Sequence[Any]],
    *args: Any,
    **others: Any,
) -> Any:
    """Around the host's estimate of the memory it needs: reference frames cost as much as video frames."""
    counts = [cond[CONDITION].shape[2] for branch in conds.values() for cond in branch or () if CONDITION in cond]
    shape = list(noise_shape)
    shape[2] += max(counts, default=0)
    return executor(model, shape, conds, *args, **others)


def without_references(cond: dict[str, Any]) -> dict[str, Any]:
    """The host's prepared ``cond`` without its reference latents."""
    kept = {name: value for name, value in cond["model_conds"].items() if name != CONDITION}
    # A name of its own, the same at each step: EasyCache files what it takes again under it.
    return {**cond, "model_conds": kept, "uuid": uuid.uuid5(cond["uuid"], "kaleido")}
