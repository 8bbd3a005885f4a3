"""Ulysses: each rank holds some of the tokens, and in self-attention some of the heads of all tokens (SPEC 10)."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..errors import ConfigError

Group = dist.ProcessGroup | None  # None: all ranks
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


@contextmanager
def sequence_parallel(dit: nn.Module, group: Group = None) -> Iterator[nn.Module]:
    """While open, the ranks of ``group`` share the tokens of each forward of ``dit``, in its blocks.

    Every rank gives the same inputs, and gets the whole velocity of one process. Tokens are cut into equal runs in
    their order, references first, and keep their positions; a last run that is too short is filled with tokens that
    nothing attends to, so that any size and any references will do. Text is not cut: each rank has all of it.

    Gradients: take the same loss on every rank; then the mean over the ranks (what FSDP and DDP compute) of each
    weight's gradient is that of one process.

    Raises ``ConfigError`` for a number of ranks that does not divide the heads, and together with ``step_cache``,
    which compares the tokens of whole clips.
    """
    blocks: Any = dit.blocks
    config: Any = dit.config
    ranks, heads = dist.get_world_size(group), config.num_heads
    if heads % ranks:
        fitting = ", ".join(str(count) for count in range(1, heads + 1) if heads % count == 0)
        raise ConfigError(f"{heads} heads do not divide over {ranks} ranks. Share a clip between {fitting} ranks.")
    with ExitStack() as stack:
        for layer in (block.self_attn for block in blocks):
            attend = _Attention(layer.attend, group)
            stack.callback(setattr, layer, "attend", layer.attend)
            stack.callback(layer.register_forward_pre_hook(attend.enter).remove)
            layer.attend = attend

        def split(_block: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            if dit.blocks is not blocks:
                raise ConfigError("A step cache stands for these blocks; ranks share all of them. Take speed exact.")
            return own_part(inputs[0], 1, group), *inputs[1:]

        def join(_block: nn.Module, inputs: tuple[Any, ...], tokens: Tensor) -> Tensor:
            return whole(tokens, group)[:, : len(inputs[-1][0])]

        stack.callback(blocks[0].register_forward_pre_hook(split).remove)
        stack.callback(blocks[-1].register_forward_hook(join).remove)
        yield dit


class _Attention:
    """Stands for the attention of one layer, between two exchanges: tokens for heads, and heads for tokens."""

    def __init__(self, attend: Attend, group: Group) -> None:
        self.attend, self.group, self.tokens = attend, group, 0

    def enter(self, _layer: nn.Module, inputs: tuple[Tensor, tuple[Tensor, ...]]) -> tuple[Any, ...]:
        """Before the layer: the rotation of this rank's tokens, whose whole number it tells."""
        x, rotation = inputs
        self.tokens = len(rotation[0])
        return x, tuple(own_part(part, 0, self.group) for part in rotation)

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """``[B A n K]`` of this rank's n tokens -> ``[B A n K]``; attention sees ``[B A/P N K]``."""
        query, key, value = (tokens_for_heads(part, self.group) for part in (query, key, value))
        mixed = self.attend(query, key[:, :, : self.tokens], value[:, :, : self.tokens])
        return heads_for_tokens(mixed, self.group)


def tokens_for_heads(x: Tensor, group: Group) -> Tensor:
    """``[B A n K]`` -> ``[B A/P n*P K]``: of all ranks' tokens, in their order, this rank's heads."""
    parts = x.unflatten(1, (dist.get_world_size(group), -1)).movedim(1, 0)  # [P B A/P n K], for rank P each
    return exchange(parts, group).movedim(0, 2).flatten(2, 3)


def heads_for_tokens(x: Tensor, group: Group) -> Tensor:
    """``[B A/P n*P K]`` -> ``[B A n K]``: the way back."""
    parts = x.unflatten(2, (dist.get_world_size(group), -1)).movedim(2, 0)
    return exchange(parts, group).movedim(0, 1).flatten(1, 2)


def exchange(parts: Tensor, group: Group) -> Tensor:
    """``[P ...]`` -> ``[P ...]``: part i goes to rank i, and another comes from there."""
    return _Exchange.apply(parts, group)  # pyright: ignore[reportReturnType]


class _Exchange(torch.autograd.Function):
    """What comes from rank i has its gradient sent to rank i: an exchange again."""

    @staticmethod
    def forward(ctx: Any, parts: Tensor, group: Group) -> Tensor:
        ctx.group, parts = group, parts.contiguous()
        received = torch.empty_like(parts)
        dist.all_to_all_single(received, parts, group=group)
        return received

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return exchange(gradients[0], ctx.group), None


def whole(x: Tensor, group: Group) -> Tensor:
    """``[B n D]`` of every rank -> ``[B n*P D]``."""
    # An exchange of copies: so a gradient comes back summed over all the ranks that have used the result.
    return exchange(x.expand(dist.get_world_size(group), *x.shape), group).movedim(0, 1).flatten(1, 2)


def own_part(x: Tensor, axis: int, group: Group) -> Tensor:
    """This rank's run of ``x`` along ``axis``, as long as everyone's: zeros fill it up at the end."""
    length = x.shape[axis]
    size = -(-length // dist.get_world_size(group))
    start = min(length, dist.get_rank(group) * size)
    part = x.narrow(axis, start, min(size, length - start))
    missing = size - part.shape[axis]
    if not missing:
        return part
    shape = [missing if index == axis else side for index, side in enumerate(x.shape)]
    return torch.cat([part, x.new_zeros(shape)], dim=axis)
