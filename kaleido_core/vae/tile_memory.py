"""What memory a tile takes, counted layer by layer, and the tile that fits a budget.

In numbers for each pixel of a tile and each channel of ``base_width``: the past of its layers, 13.4 to encode and 23.4
to decode; at work on four frames, 14. In bfloat16 at full width that is 4.5 kB a pixel to encode and 7.0 kB to decode,
where the pixels include what is read of the neighbours, some 30 at each inner side. A tile as large as the clip gives
what ``WanVAE.encode`` and ``WanVAE.decode`` take.
"""

import itertools
from collections.abc import Callable

from torch import nn

from ..errors import ConfigError
from ..shapes import SPATIAL_STRIDE, TEMPORAL_STRIDE, Grid
from .layers import (
    LOOK_BACK,
    CausalConv3d,
    Downsample,
    FrameAttention,
    NormSiLU,
    ResidualBlock,
    Upsample,
    finest,
    full_size,
    piece_frames,
)
from .model import WanVAE
from .tiling import Layers, Size, Tile, cells, decoder_parts, encoder_parts, largest_tile, middle_shape

CountBytes = Callable[[WanVAE, Grid, Size], int]
MIB = 2**20
# Numbers a pixel and channel of ``base_width`` that decoding took on an H200 beyond the tensors it makes: cuDNN's own.
# 81 frames in bfloat16: 1.69 at 512x896 whole, 1.73 in tiles of 512x448, 1.5 at 720x1280. Encoding took none.
BORROWED = 1.67


def choose_tile(count: CountBytes, vae: WanVAE, clip: Grid, budget: int) -> Size:
    """The tile with the shortest inner sides, so with the least computed twice, that ``budget`` bytes allow.

    ``count`` is ``encode_bytes`` or ``decode_bytes``, ``clip`` is (frames, height, width) in pixels. Raises
    ``ConfigError`` where no tile of 64 pixels or more is small enough.
    """
    _, height, width = clip
    tiles = tiles_of((height, width))
    for tile in tiles:
        if count(vae, clip, tile) <= budget:
            return tile
    raise ConfigError(
        f"{max(0, budget) / MIB:.0f} MiB for a clip of {height} x {width}: its smallest tile needs "
        f"{count(vae, clip, tiles[-1]) / MIB:.0f} MiB. Free some memory, or make a smaller or shorter clip."
    )


def tiles_of(size: Size) -> list[Size]:
    """Every even way to cut frames of (height, width) pixels, the shortest inner sides first."""
    height, width = size
    return sorted(
        itertools.product(_even_sides(height), _even_sides(width)),
        key=lambda tile: -(-height // tile[0]) * width + -(-width // tile[1]) * height,
    )


def decode_bytes(vae: WanVAE, clip: Grid, tile: Size, chunk: int = 1) -> int:
    """Peak of ``decode_tiled`` beside weights, latent and result. ``clip``: (frames, height, width) in pixels."""
    low, high = decoder_parts(vae)
    largest = largest_tile(high, tile, clip[1:])
    fine = finest(high).start
    borrowed = int(BORROWED * vae.config.base_width * full_size(high[fine], largest.area(fine)))
    return _peak(vae, clip, _numbers(high, largest, chunk) + borrowed, low, chunk)


def encode_bytes(vae: WanVAE, clip: Grid, tile: Size, chunk: int = TEMPORAL_STRIDE) -> int:
    """Peak of ``encode_tiled`` beside weights, pixels and result. ``clip``: (frames, height, width) in pixels."""
    high, low = encoder_parts(vae)
    largest = largest_tile(high, cells(tile), cells(clip[1:]))
    chunk = min(chunk, clip[0])  # a reference is one frame
    tile_numbers = _numbers(high, largest, chunk, once=chunk == clip[0])
    return _peak(vae, clip, tile_numbers, low, max(1, chunk // TEMPORAL_STRIDE))


def _peak(vae: WanVAE, clip: Grid, tile: int, low: Layers, chunk: int) -> int:
    """Bytes of the map between the parts and of the larger part: a ``tile`` of so many numbers, or the ``low`` one."""
    channels, frames, height, width = middle_shape(vae, clip)
    middle = channels * frames * height * width
    whole = Tile(*([(0, side)] * (len(low) + 1) for side in (height, width)))
    return vae.conv1.weight.element_size() * (middle + max(tile, middle + _numbers(low, whole, chunk)))


def _numbers(layers: Layers, tile: Tile, frames: int, once: bool = False) -> int:
    """How many numbers the layers keep of a tile's past, and hold at once at work on ``frames`` of their input.

    ``once``: these are all frames, so that no layer has a past before its turn.
    """
    past = work = peak = 0
    fine = finest(layers)
    few = piece_frames(full_size(layers[fine.start], tile.area(fine.start))) if fine else 0
    for at, layer in enumerate(layers):
        area = tile.area(at)
        past += area * sum(_remembered(inner) for inner in layer.modules())
        now = min(frames, few) if at in fine else frames
        held = _held(layers, tile, frames) if at in fine else 0
        work = max(work, held + area * _work(layer, now))
        peak = max(peak, past + held + area * _work(layer, now))
        if isinstance(layer, Upsample) and layer.time_conv:
            frames *= 2
        elif isinstance(layer, Downsample) and layer.time_conv:
            frames //= 2
    return peak if once else past + work


def _work(layer: nn.Module, frames: int) -> int:
    """Numbers a cell that a layer holds at once at work on ``frames``."""
    if isinstance(layer, ResidualBlock):
        channels, out_channels = (inner.gamma.numel() for inner in layer.modules() if isinstance(inner, NormSiLU))
        lengths = 3 * frames  # of the vectors that the norm divides by
        return channels * frames + out_channels * (2 * frames + LOOK_BACK) + lengths
    if isinstance(layer, FrameAttention):
        return frames * 9 * layer.norm.gamma.numel()  # query, key and value twice
    return 0


def _held(layers: Layers, tile: Tile, frames: int) -> int:
    """Numbers of the chunk at half resolution that waits for, or comes of, the finest layers."""
    fine = finest(layers)
    layer, at = (layers[fine.start], fine.start) if fine.start else (layers[fine[-1]], fine.stop)
    assert isinstance(layer, Upsample | Downsample)
    return tile.area(at) * frames * layer.resample[1].in_channels  # pyright: ignore - a convolution


def _remembered(layer: nn.Module) -> int:
    """Numbers a cell that a layer carries from chunk to chunk."""
    if isinstance(layer, NormSiLU):
        return LOOK_BACK * layer.gamma.numel()
    return (layer.kernel_size[0] - 1) * layer.in_channels if isinstance(layer, CausalConv3d) else 0


def _even_sides(length: int) -> list[int]:
    """Sides of 64 pixels or more that cut ``length`` into one, two, three, ... tiles of about the same size."""
    along = length // SPATIAL_STRIDE
    return [-(-along // count) * SPATIAL_STRIDE for count in range(1, max(1, length // 64) + 1)]
