"""Blocks that live on the host: which they are, and how the weights of one lie in a single run of bytes."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn

ALIGNMENT = 256  # bytes; what the device's own allocator gives, so kernels choose as they do for ordinary weights


class Weight:
    """A parameter or buffer of a visiting block, and its values on the host (``home``)."""

    def __init__(self, tensor: Tensor, offset: int) -> None:
        self.tensor, self.offset = tensor, offset
        self.home: Tensor = tensor.data
        self.size = self.home.numel() * self.home.itemsize
        self._strides = torch.empty_like(self.home, device="meta").stride()  # those that ``.to(device)`` would give
        self._device = self.home.device
        # Memory that torch did not allocate is a mapped file: letting go of it frees nothing, and it is the home to
        # return to. All else is let go of as soon as it has moved, so that it never takes memory twice.
        self._file = None if self.home.untyped_storage().resizable() else self.home

    def within(self, block_bytes: Tensor) -> Tensor:
        """This weight as a view of its block's bytes, uint8 ``[size of the block]``."""
        numbers = block_bytes[self.offset : self.offset + self.size].view(self.home.dtype)
        return numbers.as_strided(self.home.shape, self._strides)

    def move(self, home: Tensor) -> None:
        """Live in ``home``, a tensor on the host, from now on."""
        self.home = self.tensor.data = home.copy_(self.home)

    def restore(self) -> None:
        """Put the parameter back to where it was before any of this."""
        self.tensor.data = self.home.to(self._device) if self._file is None else self._file

    @property
    def mapped(self) -> bool:
        return self._file is not None


class Visitor:
    """A block that visits the device; its weights keep their place in ``size`` bytes wherever those are."""

    def __init__(self, name: str, block: nn.Module, tensors: Sequence[Tensor]) -> None:
        self.name, self.block = name, block
        self.weights: list[Weight] = []
        self.size = 0
        self.pinned: Tensor | None = None  # uint8 [size] or more, the home of all weights
        self._lent: dict[Tensor, Tensor] = {}
        for tensor in tensors:
            weight = Weight(tensor, self.size)
            self.weights.append(weight)
            self.size += -(-weight.size // ALIGNMENT) * ALIGNMENT

    @property
    def moving(self) -> int:
        """Bytes of main memory that are free once the weights have moved."""
        return sum(weight.size for weight in self.weights if not weight.mapped and weight.home.device.type == "cpu")

    def settle(self, pinned: Tensor | None) -> None:
        """Live on the host: in pinned bytes, or where the weights are already unless that is the device."""
        self.pinned = pinned
        for weight in self.weights:
            if pinned is not None:
                weight.move(weight.within(pinned))
            elif weight.home.device.type != "cpu":
                weight.move(torch.empty_like(weight.home, device="cpu"))

    def gather(self, target: Tensor) -> None:
        """Copy every weight from its home into ``target``, uint8 ``[size]`` or more."""
        for weight in self.weights:
            weight.within(target).copy_(weight.home)

    def move_in(self, place: Tensor) -> None:
        """Compute with the weights in ``place``, uint8 ``[size]`` or more."""
        for weight in self.weights:
            weight.tensor.data = weight.within(place)

    def go_home(self) -> None:
        for weight in self.weights:
            weight.tensor.data = weight.home

    def lend(self, place: Tensor) -> None:
        """Compute with tensors of their own in ``place``: autograd may keep those, and they stay where they are."""
        self._lent = {weight.tensor: _like(weight.tensor, weight.within(place)) for weight in self.weights}
        self._exchange(self._lent)

    def take_back(self) -> None:
        """Put the block's own tensors back, and forget those that were lent: autograd alone says how long they live."""
        self._exchange({lent: own for own, lent in self._lent.items()})
        self._lent = {}

    def _exchange(self, others: dict[Tensor, Tensor]) -> None:
        for module in self.block.modules():
            for tensors in (module._parameters, module._buffers):
                for name, tensor in tensors.items():
                    if tensor is not None and tensor in others:
                        tensors[name] = others[tensor]  # pyright: ignore[reportArgumentType] of the same kind

    @torch.inference_mode(False)
    def restore(self) -> None:
        for weight in self.weights:
            weight.restore()


def choose_visitors(model: nn.Module, resident: int) -> list[Visitor]:
    """All but ``resident`` blocks, spread evenly, with the tensors that are theirs alone.

    What several modules share stays on the device, and so does what is trained inside a frozen model (a LoRA).
    """
    count = len(cast(nn.ModuleList, model.get_submodule("blocks")))
    owners: dict[Tensor, set[str]] = defaultdict(set)
    for name, tensor in named_tensors(model):
        owners[tensor].add(".".join(name.split(".")[:2]) if name.startswith("blocks.") else "")
    frozen = any(not parameter.requires_grad for parameter in model.parameters())
    visiting = [tensor for tensor in owners if not (frozen and tensor.requires_grad)]
    names = [f"blocks.{index}" for index in spread(count, max(0, count - resident))]
    visitors = [
        Visitor(name, model.get_submodule(name), [tensor for tensor in visiting if owners[tensor] == {name}])
        for name in names
    ]
    return [visitor for visitor in visitors if visitor.size]


def _like(tensor: Tensor, values: Tensor) -> Tensor:
    return nn.Parameter(values, requires_grad=False) if isinstance(tensor, nn.Parameter) else values


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers under all of their names."""
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def spread(count: int, chosen: int) -> list[int]:
    """``chosen`` of the indices below ``count``, as evenly as they go, the later ones first.

    So each copy has about as many blocks' computing to hide behind, and the first block need not be waited for.
    """
    return [index for index in range(count) if (index + 1) * chosen // count > index * chosen // count]
