"""Where the parts of a model work: on one device for good, or one after the other within some of its memory."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .dit.model import KaleidoDiT
from .errors import ConfigError
from .offloading.block_swap import block_swap
from .offloading.memory_plan import GIB, RESERVE, Blocks, activation_bytes
from .shapes import SPATIAL_STRIDE, TEMPORAL_STRIDE, VideoSize
from .vae.model import WanVAE
from .vae.tile_memory import choose_tile, decode_bytes, encode_bytes
from .vae.tiling import decode_tiled, encode_tiled

logger = logging.getLogger("kaleido.placement")

DECODED_PIXELS = 2**20  # in one pass: small clips decode three times quicker whole, large ones frame by frame
STEP_DOWN = 0.8


@dataclass(frozen=True)
class Placement:
    """``room``: bytes of ``device`` to stay within; None: everything lies on ``device`` already.

    ``cap``: of the device, what nobody may go beyond however much is free; None: all of it.
    """

    device: torch.device
    room: int | None = None
    cap: int | None = None

    @contextmanager
    def at_work(self, model: nn.Module, work: float = 0.0) -> Iterator[None]:
        """While open, ``model`` computes on the device, with ``work`` bytes left for its activations."""
        if self.room is None:
            yield
        elif hasattr(model, "blocks"):
            parts = blocks_of(model)
            resident = parts.resident(self.room - RESERVE - work)
            logger.info("%s: %d of %d blocks stay on %s", type(model).__name__, resident, parts.count, self.device)
            with block_swap(model, resident, self.device):
                yield
        else:
            with _moved(model, self.device):
                yield

    def encode(self, vae: WanVAE, pixels: Tensor) -> Tensor:
        """The latent ``[B 16 T h w]`` of pixels ``[B 3 F H W]``; within a ``room`` in tiles, if it must be."""
        if self.room is None:
            return vae.encode(pixels.to(self.device))
        frames, height, width = pixels.shape[2:]
        tile = choose_tile(encode_bytes, vae, (frames, height, width), self._room_beside(vae))
        with self.at_work(vae):
            return encode_tiled(vae, pixels.to(self.device), tile)

    def decode(self, vae: WanVAE, latent: Tensor) -> Tensor:
        """The clip ``[B 3 F H W]``; within a ``room`` in tiles, if it must be, and on the CPU."""
        frames, height, width = latent.shape[2:]
        sides = SPATIAL_STRIDE * height, SPATIAL_STRIDE * width
        if self.room is None:
            return vae.decode(latent, chunk=max(1, DECODED_PIXELS // (TEMPORAL_STRIDE * sides[0] * sides[1])))
        clip = (TEMPORAL_STRIDE * (frames - 1) + 1, *sides)
        tile = choose_tile(decode_bytes, vae, clip, self._room_beside(vae))
        with self.at_work(vae):
            return decode_tiled(vae, latent, tile, out=torch.empty(len(latent), 3, *clip))

    def smaller(self, model: nn.Module) -> "Placement":
        """After ``model`` ran out of memory: some less of it. Raises ``ConfigError`` where nothing is left to try."""
        room = int(STEP_DOWN * (_free(self.device, self.cap) + size_of(model) if self.room is None else self.room))
        if room < RESERVE:
            raise ConfigError(
                f"{self.device} has too little memory for this clip, even block by block. "
                "Free some of it, or make a smaller or shorter clip: `plan` names one that fits."
            )
        logger.warning("Out of memory; going on within %.1f GiB, which is slower.", room / GIB)
        return replace(self, room=room)

    def _room_beside(self, vae: WanVAE) -> int:
        assert self.room is not None
        return self.room - RESERVE - size_of(vae)


ON_CPU = Placement(torch.device("cpu"))


def within_memory(placement: Placement, model: nn.Module, run: Callable[[Placement], Tensor]) -> Tensor:
    """``run(placement)``, with ever less of ``model`` on the device should its memory run out."""
    while True:
        try:
            return run(placement)
        except torch.OutOfMemoryError:
            pass  # its traceback holds the memory that the next try needs
        placement = placement.smaller(model)


def place(device: torch.device, parts: tuple[nn.Module, ...], work: float, room: int | None) -> Placement:
    """Move the ``parts`` to ``device`` if they fit there at once beside RESERVE and ``work`` bytes; else leave them.

    ``room`` None: all that is free; no more than that ever. On the CPU, and on devices that do not tell, everything
    is moved.
    """
    cap = room
    if device.type == "cuda":
        free = _free(device)
        room = free if room is None else min(room, free)
    if room is not None and room <= RESERVE:
        raise ConfigError(
            f"{room / GIB:.1f} GiB of {device} are too few: {RESERVE / GIB:.2f} are kept free, and parts of the model "
            "come on top. Free some memory, or raise --vram; `plan` names what a clip needs."
        )
    if room is not None and sum(map(size_of, parts)) + work > room - RESERVE:
        return Placement(device, room, cap)
    for part in parts:
        part.to(device)
    return Placement(device, cap=cap)


def blocks_of(model: nn.Module) -> Blocks:
    """The bytes of a model with a list of ``blocks``."""
    sizes = [size_of(block) for block in model.get_submodule("blocks").children()]
    return Blocks(len(sizes), max(sizes), size_of(model) - sum(sizes))


def work_of_transformer(
    dit: KaleidoDiT, size: VideoSize, references: int, cached_branches: int = 0, compiled: bool = False
) -> float:
    """Bytes that a forward holds beside the weights. ``cached_branches``: of guidance, in the step cache."""
    a_frame = (size.height // 16) * (size.width // 16)
    tokens, cached = (size.latent_frames + references) * a_frame, cached_branches * size.latent_frames * a_frame
    return activation_bytes(tokens, dit.config.width, next(dit.parameters()).itemsize, cached, compiled)


def work_of_decoding(vae: WanVAE, size: VideoSize) -> float:
    """Bytes that the autoencoder holds beside its weights to decode a clip at once, with the clip in float32."""
    clip = (size.frames, size.height, size.width)
    return decode_bytes(vae, clip, clip[1:]) + 4 * 3 * torch.Size(clip).numel()


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


def with_index(device: torch.device | str) -> torch.device:
    """ "cuda" is the present card, which older torch must be told by its number."""
    device = torch.device(device)
    bare = device.type == "cuda" and device.index is None
    return torch.device("cuda", torch.cuda.current_device()) if bare else device


def _free(device: torch.device, cap: int | None = None) -> int:
    """Bytes that this process may still take within ``cap``, its allocator's own reserve included."""
    (free, _), taken = torch.cuda.mem_get_info(device), torch.cuda.memory_allocated(device)
    free += torch.cuda.memory_reserved(device) - taken
    return free if cap is None else min(free, cap - taken)
