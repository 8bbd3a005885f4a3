"""Where the parts of a model work: on one device for good, or one after the other within some of its memory."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .dit.model import KaleidoDiT
from .errors import ConfigError
from .offloading.block_swap import SLOTS, block_swap
from .offloading.memory_plan import GIB
from .shapes import SPATIAL_STRIDE, TEMPORAL_STRIDE, VideoSize
from .vae.model import WanVAE
from .vae.tiling import choose_tile, decode_bytes, decode_tiled

logger = logging.getLogger("kaleido.placement")

RESERVE = GIB // 2  # of the device: its own context, and what its allocator cannot use
TEXT_WORK = GIB // 2  # beside the text encoder's weights, for two prompts of 512 tokens
# Copies of all tokens that a forward holds at most, counted on fake tensors (tests/test_rowwise.py).
TRANSFORMER_COPIES = 5.2
CACHED_COPIES = 4  # of the step cache: two for each branch of the guidance
DECODED_PIXELS = 2**20  # in one pass: small clips decode three times quicker whole, large ones frame by frame
STEP_DOWN = 0.8


@dataclass(frozen=True)
class Placement:
    """``room``: bytes of ``device`` to stay within; None: everything lies on ``device`` already."""

    device: torch.device
    room: int | None = None

    @contextmanager
    def at_work(self, model: nn.Module, work: float = 0.0) -> Iterator[None]:
        """While open, ``model`` computes on the device, with ``work`` bytes left for its activations."""
        if self.room is None:
            yield
        elif hasattr(model, "blocks"):
            with block_swap(model, resident_blocks(model, self.room - RESERVE - work), self.device):
                yield
        else:
            with _moved(model, self.device):
                yield

    def decode(self, vae: WanVAE, latent: Tensor) -> Tensor:
        """The clip ``[B 3 F H W]``; within a ``room`` in tiles, if it must be, and on the CPU."""
        frames, height, width = latent.shape[2:]
        sides = SPATIAL_STRIDE * height, SPATIAL_STRIDE * width
        if self.room is None:
            return vae.decode(latent, chunk=max(1, DECODED_PIXELS // (TEMPORAL_STRIDE * sides[0] * sides[1])))
        clip = (TEMPORAL_STRIDE * (frames - 1) + 1, *sides)
        tile = choose_tile(decode_bytes, vae, clip, self.room - RESERVE - size_of(vae))
        with self.at_work(vae):
            return decode_tiled(vae, latent, tile, out=torch.empty(len(latent), 3, *clip))

    def smaller(self, model: nn.Module) -> "Placement":
        """After ``model`` ran out of memory: some less of it. Raises ``ConfigError`` where nothing is left to try."""
        room = int(STEP_DOWN * (_free(self.device) + size_of(model) if self.room is None else self.room))
        if room < 2 * RESERVE:
            raise ConfigError(
                f"{self.device} has too little memory for this clip, even block by block. "
                "Free some of it, or make a smaller or shorter clip."
            )
        logger.warning("Out of memory; going on within %.1f GiB, which is slower.", room / GIB)
        return replace(self, room=room)


ON_CPU = Placement(torch.device("cpu"))


def within_memory(placement: Placement, model: nn.Module, run: Callable[[Placement], Tensor]) -> Tensor:
    """``run(placement)``, with ever less of ``model`` on the device should its memory run out."""
    while True:
        try:
            return run(placement)
        except torch.OutOfMemoryError:
            pass  # its traceback holds the memory that the next try needs
        placement = placement.smaller(model)


def place(device: torch.device, parts: tuple[nn.Module, ...], room: int | None) -> Placement:
    """Move the ``parts`` to ``device`` if they fit there at once with as much again as RESERVE; else leave them.

    ``room`` None: all that is free. On the CPU, and on devices that do not tell, everything is moved.
    """
    if device.type == "cuda" and room is None:
        room = _free(device)
    if room is None or sum(map(size_of, parts)) + work_of_transformer(parts[0], None) <= room - RESERVE:
        for part in parts:
            part.to(device)
        return Placement(device)
    return Placement(device, room)


def resident_blocks(model: nn.Module, room: float) -> int:
    """How many blocks can lie within ``room`` bytes all the time, beside what is no block and two visitors."""
    blocks = list(model.get_submodule("blocks").children())
    largest = max(map(size_of, blocks))
    others = size_of(model) - sum(map(size_of, blocks))
    if size_of(model) <= room:
        return len(blocks)
    return max(0, int((room - others) // largest) - SLOTS)


def work_of_transformer(dit: nn.Module, size: VideoSize | None, references: int = 3, cached: bool = False) -> float:
    """Bytes that a forward holds beside the weights; for the largest usual clip without a ``size``.

    ``cached``: with the step cache.
    """
    assert isinstance(dit, KaleidoDiT)
    size = size or VideoSize(81, 512, 896)
    _, _, frames, height, width = size.latent_shape()
    tokens = (frames + references) * (height // 2) * (width // 2)
    copies = TRANSFORMER_COPIES + CACHED_COPIES * cached
    return copies * tokens * dit.config.width * next(dit.parameters()).itemsize


def size_of(model: nn.Module) -> int:
    """Bytes of parameters and buffers."""
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))


@contextmanager
def _moved(model: nn.Module, device: torch.device) -> Iterator[None]:
    tensors = [*model.parameters(), *model.buffers()]
    before = [tensor.data for tensor in tensors]
    try:
        for tensor in tensors:
            tensor.data = tensor.data.to(device)
        yield
    finally:
        for tensor, home in zip(tensors, before, strict=True):
            tensor.data = home


def _free(device: torch.device) -> int:
    """Bytes that this process may still take, its allocator's own reserve included."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
