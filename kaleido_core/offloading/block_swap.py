"""Keep only some blocks of a model on the device; the others visit it, each copied while those before it compute."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from .copies import Event, Lane, Loader, PinnedMemory, open_lane
from .main_memory import free_memory
from .visitors import Visitor, choose_visitors, named_tensors, spread

SLOTS = 2  # one block computes, one is on its way


@contextmanager
def block_swap(
    model: nn.Module, resident: int, device: torch.device | str, pinned_bytes: int | None = None
) -> Iterator[nn.Module]:
    """Run ``model`` on ``device`` with ``resident`` of its ``blocks`` there all the time; the others visit.

    The device holds at most two visitors at a time, besides the resident blocks and all that is no block. Results are
    those of a model that is there as a whole. Afterwards, exceptions included, every parameter has its old device,
    dtype and value. Weights are only ever copied to the device, so what changes them inside must not be a visitor.

    ``pinned_bytes`` of main memory at most are pinned for weights, by default half of what is free; weights move
    there, and stay there, no longer pinned, afterwards. Those beyond that, or mapped from a file larger than the main
    memory, pass through two pinned buffers of a block's size.

    Blocks may be called in any order; that of ``blocks`` is fast. Gradients need frozen visitors, and copies are not
    hidden then; call them under ``torch.utils.checkpoint``, or autograd keeps every visitor on the device.

    Raises ``ConfigError`` for a negative ``resident`` and for a visitor whose own weights want gradients.
    """
    if resident < 0:
        raise ConfigError(f"{resident} resident blocks; we need 0 or more. Give 0 for the smallest memory.")
    device = torch.device(device)
    lane = open_lane(device)
    visitors = choose_visitors(model, resident)
    if pinned_bytes is None:
        pinned_bytes = pinned_by_default(visitors) if device.type == "cuda" else 0
    with ExitStack() as stack:
        pinned = PinnedMemory(lane)
        stack.callback(pinned.release)
        _settle(visitors, pinned, pinned_bytes, stack)
        _move_others(model, visitors, device, stack)
        if visitors:
            ring = _open_ring(visitors, device, lane, pinned, stack)
            for visitor in visitors:
                _attach(ring, visitor.block, stack)
        yield model


def pinned_by_default(visitors: Sequence[Visitor]) -> int:
    """Bytes: half of what is free, where what moves into pinned memory leaves as much behind."""
    return (free_memory() + sum(visitor.moving for visitor in visitors)) // 2


@torch.inference_mode(False)
def _settle(visitors: Sequence[Visitor], pinned: PinnedMemory, budget: int, stack: ExitStack) -> None:
    """Give every visitor its home on the host; pinned ones evenly among the others, which take longer to load."""
    largest = max((visitor.size for visitor in visitors), default=0)
    lucky = spread(len(visitors), min(len(visitors), budget // largest)) if largest else []
    for index, visitor in enumerate(visitors):
        stack.callback(visitor.restore)
        visitor.settle(pinned.take(visitor.size) if index in lucky else None)


@torch.inference_mode(False)
def _move_others(model: nn.Module, visitors: Sequence[Visitor], device: torch.device, stack: ExitStack) -> None:
    visiting = {weight.tensor for visitor in visitors for weight in visitor.weights}
    frozen = any(not parameter.requires_grad for parameter in model.parameters())
    for tensor in {tensor: None for _, tensor in named_tensors(model)}:
        if tensor not in visiting:
            stack.callback(_bring_back, tensor, tensor.data, trained=frozen and tensor.requires_grad)
            tensor.data = tensor.data.to(device)


def _bring_back(tensor: Tensor, before: Tensor, trained: bool) -> None:
    """``trained`` weights keep what they have learned."""
    if trained:
        before.copy_(tensor.data)
    tensor.data = before


@torch.inference_mode(False)
def _open_ring(
    visitors: Sequence[Visitor], device: torch.device, lane: Lane, pinned: PinnedMemory, stack: ExitStack
) -> "_Ring":
    largest_staged = max((visitor.size for visitor in visitors if visitor.pinned is None), default=0)
    staging = [_staging(pinned, largest_staged) for _ in range(SLOTS if largest_staged else 0)]
    largest = max(visitor.size for visitor in visitors)
    slots = [_Slot(torch.empty(largest, dtype=torch.uint8, device=device)) for _ in range(min(SLOTS, len(visitors)))]
    loader = Loader(lane, staging)
    stack.callback(lane.finish)
    stack.callback(loader.close)
    return _Ring(visitors, slots, loader, lane)


def _staging(pinned: PinnedMemory, size: int) -> Tensor:
    memory = pinned.take(size)
    return torch.empty(size, dtype=torch.uint8) if memory is None else memory


def _attach(ring: "_Ring", block: nn.Module, stack: ExitStack) -> None:
    """Tell the ring of each call of the block, from outside of what ``block.compile()`` compiles."""
    enter, leave = (cast(Callable[..., None], torch.compiler.disable(hook)) for hook in (ring.enter, ring.leave))
    # First in, last out: other hooks of the block see its weights on the device. Left also after an exception.
    stack.callback(block.register_forward_pre_hook(enter, prepend=True, with_kwargs=True).remove)
    stack.callback(block.register_forward_hook(leave, always_call=True).remove)


class _Slot:
    """Memory on the device for one visitor at a time; ``loading`` gives the end of the last copy into it."""

    def __init__(self, place: Tensor) -> None:
        self.place = place
        self.visitor: Visitor | None = None
        self.loading: Future[Event] = Future()


class _Ring:
    """The visitors take turns in the slots: the moment one has computed, the next but one is loaded over it."""

    def __init__(self, visitors: Sequence[Visitor], slots: list[_Slot], loader: Loader, lane: Lane) -> None:
        self._visitors, self._slots, self._loader, self._lane = visitors, slots, loader, lane
        self._index = {visitor.block: index for index, visitor in enumerate(visitors)}
        self._recorded: Visitor | None = None
        self._load_after(len(visitors) - 1)

    def enter(self, block: nn.Module, inputs: tuple[object, ...], named_inputs: dict[str, object]) -> None:
        """Before the block computes: its weights are on the device, or are waited for."""
        visitor = self._visitors[self._index[block]]
        self._recorded = None
        if _is_recorded(block, (inputs, named_inputs)):
            self._enter_recorded(visitor)
            return
        slot = self._slot_of(visitor) or self._load(visitor, self._slots[0])
        self._lane.wait(slot.loading.result())
        visitor.move_in(slot.place)

    def leave(self, block: nn.Module, _inputs: object, _output: object) -> None:
        if self._recorded is None:
            self._load_after(self._index[block])
            return
        self._recorded.take_back()
        self._recorded = None

    def _enter_recorded(self, visitor: Visitor) -> None:
        """Bring the block to memory of its own, that lives as long as autograd wants it for the way back."""
        if any(weight.tensor.requires_grad for weight in visitor.weights):
            raise ConfigError(
                f"{visitor.name} only visits the device, and its weights want gradients, which would be lost. "
                "Run under torch.no_grad(), freeze the model with requires_grad_(False), or keep all blocks resident."
            )
        place = torch.empty_like(self._slots[0].place[: visitor.size])
        visitor.gather(place)
        visitor.lend(place)
        self._recorded = visitor

    def _load_after(self, index: int) -> None:
        """Have the next visitors in the slots, in the order of the blocks and round again."""
        count, last = len(self._visitors), self._visitors[index]
        wanted = [self._visitors[(index + step) % count] for step in range(1, len(self._slots) + 1)]
        idle = [slot for slot in self._slots if slot.visitor not in wanted]
        idle.sort(key=lambda slot: slot.visitor is last)  # on the device it computes still, so others come first
        for visitor in wanted:
            if self._slot_of(visitor) is None:
                self._load(visitor, idle.pop(0))

    def _load(self, visitor: Visitor, slot: _Slot) -> _Slot:
        if slot.visitor is not None:
            slot.visitor.go_home()
        slot.visitor, slot.loading = visitor, self._loader.load(visitor, slot.place)
        return slot

    def _slot_of(self, visitor: Visitor) -> _Slot | None:
        return next((slot for slot in self._slots if slot.visitor is visitor), None)


def _is_recorded(block: nn.Module, inputs: object) -> bool:
    """Whether autograd will want to come back through this call."""
    return torch.is_grad_enabled() and any(
        tensor.requires_grad for tensor in (*block.parameters(), *_tensors_in(inputs))
    )


def _tensors_in(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors_in(tuple(value.values()))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors_in(item)
