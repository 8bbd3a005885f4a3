"""Copies from the host to a device beside its computing, pinned memory, and one thread that keeps them going."""

import contextlib
import mmap
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from ..errors import warn_once
from .visitors import Visitor


class Moment(Protocol):
    """A point in what a device was asked to do, such as a ``torch.cuda.Event``."""

    def synchronize(self) -> None:
        """Wait for it on the host."""
        ...


Event = Moment | None  # None where nothing runs beside anything else
PORTABLE = 1  # cudaHostRegisterPortable: pinned for every card


class Lane(Protocol):
    """The way from the host to one device."""

    def mark(self) -> Event:
        """The moment when the device has computed all that it was asked to so far."""
        ...

    def wait(self, event: Event) -> None:
        """Let the device compute what it is asked to from now on only after ``event``."""
        ...

    def copy(self, source: Tensor, target: Tensor, after: Event) -> Event:
        """Copy once ``after`` has happened; the event is the end of it. The caller need not wait for anything."""
        ...

    def finish(self) -> None:
        """Wait, on the host, for all that the device was asked to do."""
        ...

    def pin(self, memory: Tensor) -> bool:
        """Let the device read ``memory`` by itself. False where that cannot be had."""
        ...

    def unpin(self, memory: Tensor) -> None: ...


class CpuLane:
    """The host as its own device: everything happens at once, and all memory is as good as pinned."""

    def mark(self) -> Event:
        return None

    def wait(self, event: Event) -> None:
        pass

    def copy(self, source: Tensor, target: Tensor, after: Event) -> Event:
        target.copy_(source)
        return None

    def finish(self) -> None:
        pass

    def pin(self, memory: Tensor) -> bool:
        return True

    def unpin(self, memory: Tensor) -> None:
        pass


class CudaLane:
    """Copies on a stream of their own; events keep them and the computing from touching the same bytes."""

    def __init__(self, device: torch.device) -> None:
        # An index, because "the present device" is another one in another thread.
        self._device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
        self._stream = torch.cuda.Stream(self._device)
        self._driver: Any = torch.cuda.cudart()

    def mark(self) -> Event:
        return torch.cuda.current_stream(self._device).record_event()

    def wait(self, event: Event) -> None:
        if event is not None:
            torch.cuda.current_stream(self._device).wait_event(cast(torch.cuda.Event, event))

    def copy(self, source: Tensor, target: Tensor, after: Event) -> Event:
        with torch.cuda.stream(self._stream):
            if after is not None:
                self._stream.wait_event(cast(torch.cuda.Event, after))
            target.copy_(source, non_blocking=True)
            return self._stream.record_event()

    def finish(self) -> None:
        torch.cuda.synchronize(self._device)

    def pin(self, memory: Tensor) -> bool:
        # Registered instead of torch's own pinned memory, which is rounded up to a power of two and never given back.
        with torch.cuda.device(self._device):
            if int(self._driver.cudaHostRegister(memory.data_ptr(), memory.nbytes, PORTABLE)) == 0:
                return True
            # A refusal is kept as "the last error" and would be blamed on the next kernel; this one takes the blame.
            with contextlib.suppress(RuntimeError):
                torch.ones(1, device=self._device).add_(1)
        return False

    def unpin(self, memory: Tensor) -> None:
        with torch.cuda.device(self._device):
            self._driver.cudaHostUnregister(memory.data_ptr())


def open_lane(device: torch.device) -> Lane:
    return CudaLane(device) if device.type == "cuda" else CpuLane()


class PinnedMemory:
    """Gives out pinned bytes, and lets go of them all in the end; the bytes stay valid, as ordinary memory."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._pinned: list[Tensor] = []
        self._refused = False

    def take(self, size: int) -> Tensor | None:
        """uint8 ``[size]`` or a little more, whole pages; None, with a warning, where no more can be pinned."""
        memory = None if self._refused else _whole_pages(size)
        if memory is None or not self._lane.pin(memory):
            self._refused = True  # asking for each block would only take time
            warn_once("offloading", "Main memory could not be pinned; copying weights to the device will be slower.")
            return None
        self._pinned.append(memory)
        return memory

    def release(self) -> None:
        while self._pinned:
            self._lane.unpin(self._pinned.pop())


def _whole_pages(size: int) -> Tensor | None:
    """uint8 that shares no page with anything else, for pages are pinned, and only once; None where memory is out."""
    pages = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    try:
        memory = torch.empty(pages + mmap.PAGESIZE, dtype=torch.uint8)
    except RuntimeError:
        return None
    start = -memory.data_ptr() % mmap.PAGESIZE
    return memory[start : start + pages]


class Loader:
    """Brings visitors to the device, in the order in which they are asked for, from one background thread.

    A pinned one is copied straight. Any other is first gathered, from the disk where it is mapped, into one of the
    ``staging`` buffers (uint8, as large as the largest of them): while one is being filled, the other is being copied.
    """

    def __init__(self, lane: Lane, staging: list[Tensor]) -> None:
        self._lane = lane
        self._staging: deque[tuple[Tensor, Event]] = deque((buffer, lane.mark()) for buffer in staging)
        self._thread = ThreadPoolExecutor(1, "kaleido-block-swap")

    def load(self, visitor: Visitor, place: Tensor) -> Future[Event]:
        """Fill ``place`` once the device has done what it was asked to so far; the result is the end of the copy."""
        return self._thread.submit(self._load, visitor, place[: visitor.size], self._lane.mark())

    def close(self) -> None:
        """Finish what is being copied, forget what is not, and end the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _load(self, visitor: Visitor, place: Tensor, free: Event) -> Event:
        if visitor.pinned is not None:
            return self._lane.copy(visitor.pinned[: visitor.size], place, free)
        buffer, copied = self._staging.popleft()
        if copied is not None:
            copied.synchronize()
        visitor.gather(buffer)
        copied = self._lane.copy(buffer[: visitor.size], place, free)
        self._staging.append((buffer, copied))
        return copied
