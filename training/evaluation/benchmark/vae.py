"""The autoencoder: whole, in tiles, a large clip under a hard cap, beside ComfyUI's; and how exact the tiles are."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kaleido_core import VideoSize, WanVAE
from kaleido_core.offloading.memory_plan import RESERVE
from kaleido_core.placement import size_of
from kaleido_core.vae.model import channels_last
from kaleido_core.vae.tile_memory import CountBytes, Size, choose_tile, decode_bytes, encode_bytes
from kaleido_core.vae.tiling import decode_tiled, encode_tiled

from .host import host_vae
from .measure import GIB, Bench, Cost, Note, Row, attempt, capped, measure, settle
from .scale import draw, random_vae

PATIENCE = 4.0  # seconds
CLIP = tuple[int, int, int]  # frames, height, width


@dataclass(frozen=True)
class Coded(Row):
    """``foretold_gib``: what ``vae/tile_memory.py`` says that the call adds, its result aside."""

    clip: CLIP
    tile: Size | None
    cap_gib: float | None
    foretold_gib: float | None
    cost: Cost


@dataclass(frozen=True)
class Seam(Row):
    """The largest difference of tiled to whole over the largest value, in float32 without TF32."""

    clip: CLIP
    tile: Size
    difference: float


@torch.no_grad()
def vae(bench: Bench) -> Iterator[Row]:
    """In bfloat16, with weights laid out for tensor cores, beside the host's; last the plain layout."""
    if bench.comfyui is None:
        yield Note("ComfyUI", "was not named; give --comfyui DIR")
    model = channels_last(random_vae(bench.scale.vae, bench.device))
    yield from clip(bench, model, bench.scale.size, tiles=tiles_of(bench.scale.size))
    yield from seams(bench)
    yield from within_cap(bench, model)
    yield from clip(bench, model, bench.scale.large)
    del model
    settle(bench.device)
    model = random_vae(bench.scale.vae, bench.device)
    pixels, latent = random_clip(bench.scale.size, bench.device)
    yield coded("encode, plain layout", lambda: model.encode(pixels), bench.scale.size, bench.device)
    yield coded("decode, plain layout", lambda: model.decode(latent), bench.scale.size, bench.device)


def clip(bench: Bench, model: WanVAE, size: VideoSize, tiles: Sequence[Size] = ()) -> Iterator[Row]:
    """A clip as a whole by us and by the host, then in tiles, decoded ones to main memory, as ``generate`` does."""
    device = bench.device
    pixels, latent = random_clip(size, device)
    room = torch.empty_like(pixels, device="cpu")
    yield coded("encode", lambda: model.encode(pixels), size, device)
    yield coded("decode", lambda: model.decode(latent), size, device)
    if bench.comfyui is not None:
        host, raw = host_vae(bench.comfyui, model, device), (latent * model.std + model.mean).bfloat16()
        small = pixels.bfloat16()  # what the host reads
        yield coded("encode, ComfyUI", lambda: host.encode(small), size, device)
        yield coded("decode, ComfyUI", lambda: host.decode(raw), size, device)
        del host, small, raw
    for tile in tiles:
        for name, call, foretell in (
            ("encode, tiled", lambda tile=tile: encode_tiled(model, pixels, tile), encode_bytes),
            ("decode, tiled", lambda tile=tile: decode_tiled(model, latent, tile, out=room), decode_bytes),
        ):
            yield coded(name, call, size, device, tile, foretell(model, clip_of(size), tile))


def within_cap(bench: Bench, model: WanVAE) -> Iterator[Row]:
    """A large clip, its pixels in main memory."""
    size, cap, device = bench.scale.large, bench.scale.large_cap, bench.device
    pixels, latent = random_clip(size, torch.device("cpu"))
    room = torch.empty_like(pixels)

    def run(name: str, foretell: CountBytes, call: Callable[[Size], Tensor]) -> Row:
        tile = choose_tile(foretell, model, clip_of(size), int(cap * GIB - RESERVE - size_of(model)))
        return coded(name, lambda: call(tile), size, device, tile, foretell(model, clip_of(size), tile), cap)

    with capped(device, cap):
        name = "encode, capped"
        yield attempt(name, lambda: run(name, encode_bytes, lambda tile: encode_tiled(model, pixels, tile)))
        other = "decode, capped"
        yield attempt(other, lambda: run(other, decode_bytes, lambda tile: decode_tiled(model, latent, tile, out=room)))


def seams(bench: Bench) -> Iterator[Row]:
    """Short clips: a seam would show in any frame."""
    settle(bench.device)
    model = random_vae(bench.scale.vae, bench.device, torch.float32)
    for size in (bench.scale.size, bench.scale.large):
        size = replace(size, frames=9)
        pixels, latent = random_clip(size, bench.device)
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            encoded, decoded = model.encode(pixels), model.decode(latent)
            for tile in tiles_of(size):
                yield Seam("encode", clip_of(size), tile, worst(encode_tiled(model, pixels, tile), encoded))
                yield Seam("decode", clip_of(size), tile, worst(decode_tiled(model, latent, tile), decoded))


def coded(
    name: str,
    call: Callable[[], Tensor],
    size: VideoSize,
    device: torch.device,
    tile: Size | None = None,
    foretold: int | None = None,
    cap: float | None = None,
) -> Row:
    gib = None if foretold is None else foretold / GIB
    return attempt(name, lambda: Coded(name, clip_of(size), tile, cap, gib, measure(call, device, patience=PATIENCE)))


def random_clip(size: VideoSize, device: torch.device) -> tuple[Tensor, Tensor]:
    """Pixels ``[1 3 F H W]`` in -1..1 and a latent ``[1 16 T H/8 W/8]``."""
    pixels = draw(1, 3, size.frames, size.height, size.width, device=device).clamp_(-1, 1)
    return pixels, draw(*size.latent_shape(), device=device, seed=2)


def clip_of(size: VideoSize) -> CLIP:
    return size.frames, size.height, size.width


def tiles_of(size: VideoSize) -> tuple[Size, ...]:
    """Quarters of a clip, halves side by side, thirds side by side, in multiples of 8."""
    return (
        (part(size.height, 2), part(size.width, 2)),
        (size.height, part(size.width, 2)),
        (size.height, part(size.width, 3)),
    )


def part(side: int, count: int) -> int:
    return -(-side // (8 * count)) * 8


def worst(found: Tensor, exact: Tensor) -> float:
    return ((found - exact).abs().max() / exact.abs().max()).item()
