"""Blocks by ``torch.compile``: the same steps in kernels, and so in roundings, of its own."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import first_line, warn_once
from .attention import attention, fastest_kernel, use_attention
from .block import Block
from .model import KaleidoDiT


def compile_blocks(dit: KaleidoDiT, device: torch.device) -> None:
    """Let ``torch.compile`` make kernels of the blocks when they first compute on ``device``, for each size anew.

    Blocks may visit the device, and be compiled once for all. Compiled code cannot measure which attention is the
    fastest, so that is chosen now, unless one was by name. Where no compiler works the blocks run as they are written,
    with one warning.
    """
    blocks: list[Block] = list(dit.blocks)  # pyright: ignore[reportAssignmentType]
    measured = device.type == "cuda" and blocks[0].self_attn.attend is attention
    if measured:
        use_attention(dit, fastest_kernel(device, dit.patch_embedding.weight.dtype, dit.config.head_width))

    def give_up(error: Exception) -> None:
        warn_once("dit", f"torch.compile does not work here ({first_line(error)}): blocks run as they are written.")
        for block in blocks:
            vars(block).pop("forward", None)
        if measured:
            use_attention(dit, "auto")

    for block in blocks:
        block.forward = _compiled(block.forward, give_up)


def _compiled(plain: Callable[..., Tensor], give_up: Callable[[Exception], None]) -> Callable[..., Tensor]:
    compiled: Callable[..., Tensor] | None = None

    def forward(*inputs: Any) -> Tensor:
        nonlocal compiled
        try:
            compiled = compiled or torch.compile(plain, dynamic=False)
            return compiled(*inputs)
        except torch.OutOfMemoryError:
            raise  # less of the model on the device will help
        except Exception as error:  # whatever a compiler and its toolchain may come up with
            give_up(error)
            return plain(*inputs)

    return forward
