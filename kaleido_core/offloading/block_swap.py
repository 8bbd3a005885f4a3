"""Keep only some blocks of the transformer on the device; the others visit it one at a time."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def block_swap(dit: nn.Module, resident: int, device: torch.device | str) -> Iterator[nn.Module]:
    """Run ``dit`` on ``device`` with its first ``resident`` blocks there and the others on the CPU between their turns.

    ``dit.blocks`` is a ``ModuleList``; all else of the model moves to ``device``. Results are those of a model that is
    there as a whole. Afterwards, exceptions included, every parameter is where, and what, it was.
    """
    tensors = [*dit.parameters(), *dit.buffers()]
    before = [tensor.data for tensor in tensors]
    blocks: nn.ModuleList = dit.blocks  # pyright: ignore[reportAssignmentType]
    visitors = list(blocks)[resident:]
    visiting = {id(tensor) for block in visitors for tensor in (*block.parameters(), *block.buffers())}
    homes = {id(tensor): tensor.data.cpu() for tensor in tensors if id(tensor) in visiting}
    hooks = []

    def enter(block: nn.Module, _inputs: object) -> None:
        for tensor in _tensors(block):
            tensor.data = homes[id(tensor)].to(device)

    def leave(block: nn.Module, _inputs: object, _output: object) -> None:
        for tensor in _tensors(block):
            tensor.data = homes[id(tensor)]  # weights do not change here: the copy on the device is dropped

    try:
        for tensor in tensors:
            tensor.data = homes[id(tensor)] if id(tensor) in visiting else tensor.data.to(device)
        for block in visitors:
            hooks += [block.register_forward_pre_hook(enter), block.register_forward_hook(leave)]
        yield dit
    finally:
        for hook in hooks:
            hook.remove()
        for tensor, value in zip(tensors, before, strict=True):
            tensor.data = value


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
