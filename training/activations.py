"""What the forward keeps for the backward: less of it, and in main memory. From outside; numbers do not change.

Kept of each block, in multiples of one copy of all tokens (0.44 GB for 81 frames of 896x512 with three references), and
what has to be computed again:

| checkpointing | kept | again |
|---|---|---|
| none | about 25 | nothing |
| attention | 2: input, result of self-attention | all but the self-attention, most of the work |
| blocks | 1: input | all |
| rows | 1, and the MLP of the block at work goes by rows | all; most of the MLP twice |
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts, noop_context_fn

from kaleido_core import KaleidoDiT
from kaleido_core.dit.attention import fastest_kernel
from kaleido_core.dit.block import BATCH_ROWS, MLP, Block

from .config import MemoryConfig

ATTENTION = {
    getattr(torch.ops.aten, name).default
    for name in (
        "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_efficient_attention",
    )
}
again = partial(checkpoint, use_reentrant=False, preserve_rng_state=False)  # nothing in the model is random


Places = list[tuple[dict[str, Any], str]]  # where modules keep their weights, and under which names


class CheckpointedBlock(Block):
    """A block that forgets all but its input. Its hooks run again too: visiting weights come back for the backward."""

    outside: Callable[[], AbstractContextManager[object]] = nullcontext
    context: Callable[[], tuple[Any, Any]] = staticmethod(noop_context_fn)

    def __call__(self, *inputs: Any) -> Tensor:
        with self.outside():
            return again(super().__call__, *inputs, context_fn=self.context)


class CheckpointedMLP(MLP):
    """It forgets its hidden values, the widest of a block, for some rows at a time."""

    def __call__(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return super().__call__(x)
        places = [
            (tensors, name)
            for module in self.modules()
            for tensors in (module._parameters, module._buffers)
            for name, tensor in tensors.items()
            if tensor is not None
        ]
        weights = [tensors[name] for tensors, name in places]
        forward = super().__call__
        parts = [_RowsAgain.apply(forward, places, rows, *weights) for rows in x.split(BATCH_ROWS, dim=1)]
        return torch.cat(cast(list[Tensor], parts), dim=1)


class _RowsAgain(torch.autograd.Function):
    """``forward(rows)``, and again on the way back with the weights of the first time.

    Not a checkpoint within the block's: that would compute again once the block is over, when visiting weights have
    gone home. What is saved here, the block's own checkpoint brings back.
    """

    @staticmethod
    def forward(
        ctx: Any, forward: Callable[[Tensor], Tensor], places: Places, rows: Tensor, *weights: Tensor
    ) -> Tensor:
        kind = rows.device.type
        ctx.forward, ctx.places = forward, places
        ctx.autocast = kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind)
        ctx.save_for_backward(rows, *weights)
        return forward(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[2:]
        own = [tensor.detach().requires_grad_(wants) for tensor, wants in zip(ctx.saved_tensors, wanted, strict=True)]
        with _placed(ctx.places, own[1:]), torch.enable_grad(), torch.autocast(*ctx.autocast):
            result = ctx.forward(own[0])
        learning = [tensor for tensor in own if tensor.requires_grad]
        found = iter(torch.autograd.grad(result, learning, gradients[0]))
        return None, None, *(next(found) if wants else None for wants in wanted)


@contextmanager
def _placed(places: Places, tensors: Sequence[Tensor]) -> Iterator[None]:
    """While open, these are the weights."""
    before = [holder[name] for holder, name in places]
    try:
        for (holder, name), tensor in zip(places, tensors, strict=True):
            holder[name] = tensor
        yield
    finally:
        for (holder, name), tensor in zip(places, before, strict=True):
            holder[name] = tensor


def save_activations(dit: KaleidoDiT, memory: MemoryConfig, device: torch.device) -> None:
    """Let ``dit``'s blocks keep what ``memory`` says, for good; before FSDP and block swap come."""
    if memory.checkpointing == "attention" and device.type == "cuda":
        # What is kept is found again by counting calls: the trials that choose a kernel must be over before, and are
        # remembered by the device's full name, "cuda:0".
        device = torch.empty(0, device=device).device
        for dtype in (torch.bfloat16, torch.float32):
            fastest_kernel(device, dtype, dit.config.head_width)
    for block in dit.blocks:
        if memory.checkpointing == "none":
            break
        block.__class__ = CheckpointedBlock  # the class, not a wrapper: names of parameters stay Wan's
        assert isinstance(block, CheckpointedBlock)
        if memory.offload_activations:
            block.outside = partial(save_on_cpu, pin_memory=device.type == "cuda")
        if memory.checkpointing == "attention":
            block.context = partial(create_selective_checkpoint_contexts, _keep_self_attention)
        if memory.checkpointing == "rows":
            block.ffn.__class__ = CheckpointedMLP


def _keep_self_attention(_context: Any, operation: Any, *inputs: Any, **_named: Any) -> CheckpointPolicy:
    """Self-attention has about as many keys as queries; attention to the text is cheap."""
    if operation in ATTENTION and 2 * inputs[1].shape[-2] > inputs[0].shape[-2]:
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE
