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

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

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
        forward = super().__call__
        return torch.cat([again(forward, rows) for rows in x.split(BATCH_ROWS, dim=1)], dim=1)


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
