"""Encode and decode in tiles without seams: what a tile needs of its neighbours is computed again, nothing is blended.

The attention sees whole frames, so the layers at the lowest resolution run on the whole map; that is small. Those at
the higher resolutions run tile by tile, and the whole clip streams through one tile before the next begins. A tile
reads more than what is kept of it: behind each layer the edge goes that the layer's padding falsified. At the
picture's own edges the padding is right and nothing goes. So the result is the untiled one, up to the order in which
a convolution sums.

Memory of a tile, in numbers for each of its pixels and each channel of ``base_width``: the past of its layers, 13.4 to
encode and 23.4 to decode; at work on four frames, 14. In bfloat16 at full width that is 5.1 kB a pixel to encode and
7.0 kB to decode, where the pixels include what is read of the neighbours, some 30 at each inner side. ``encode_bytes``
and ``decode_bytes`` count all of it for a clip and a tile, to some percent; what cuDNN borrows comes on top.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import ConfigError, ShapeError
from ..shapes import SPATIAL_STRIDE, TEMPORAL_STRIDE, Grid
from .layers import (
    LOOK_BACK,
    CausalConv3d,
    Downsample,
    FrameAttention,
    History,
    NormSiLU,
    ResidualBlock,
    Upsample,
    finest,
    full_size,
    piece_frames,
    through,
)  # fmt: skip
from .model import MULTIPLIERS, WanVAE, chunks, encodable, room_for_pixels

Size = tuple[int, int]  # height and width
Span = tuple[int, int]  # from, to (exclusive), along one axis of some layer's map
Layers = Sequence[nn.Module]
CountBytes = Callable[[WanVAE, Grid, Size], int]
MIB = 2**20


@dataclass(frozen=True)
class Tile:
    """A tile's part of every map, along each axis: of the first layer's input, then of each layer's output."""

    rows: list[Span]
    columns: list[Span]

    def cut(self, whole: Tensor, at: int) -> Tensor:
        """This tile's part of a whole map: ``at`` 0 of the first input, -1 of the last output."""
        (top, bottom), (left, right) = self.rows[at], self.columns[at]
        return whole[..., top:bottom, left:right]

    def keep(self, x: Tensor, layer: nn.Module, at: int) -> Tensor:
        """What is right of ``x``, which ``layer``, the ``at``-th from 1, made of this tile's part of its input."""
        (top, bottom), (left, right) = self.rows[at], self.columns[at]
        row, column = _origin(layer, self.rows[at - 1][0]), _origin(layer, self.columns[at - 1][0])
        return x[..., top - row : bottom - row, left - column : right - column]

    def area(self, at: int) -> int:
        (top, bottom), (left, right) = self.rows[at], self.columns[at]
        return (bottom - top) * (right - left)


@torch.no_grad()
def decode_tiled(vae: WanVAE, latent: Tensor, tile: Size, chunk: int = 1, out: Tensor | None = None) -> Tensor:
    """As ``vae.decode``, in tiles of ``tile`` pixels (multiples of 8); the last of a row or a column may be smaller.

    Without gradients. Raises ``ShapeError`` for other tiles.
    """
    _check_tile(tile)
    low, high = decoder_parts(vae)
    out = room_for_pixels(latent, out)
    middle = _stream(low, vae.denormalise(latent), chunk)
    for part in _tiles(high, tile, _size(out)):
        pieces = chunks(part.cut(middle, 0), chunk)
        _fill(part.cut(out, -1), (frames.clamp_(-1, 1) for frames in _run(high, part, pieces)))
    return out


@torch.no_grad()
def encode_tiled(vae: WanVAE, pixels: Tensor, tile: Size, chunk: int = TEMPORAL_STRIDE) -> Tensor:
    """As ``vae.encode``, in tiles of ``tile`` pixels (multiples of 8); the last of a row or a column may be smaller.

    Without gradients. Raises ``ShapeError`` for other tiles.
    """
    _check_tile(tile)
    high, low = encoder_parts(vae)
    pixels = encodable(pixels, chunk)
    weight = vae.conv1.weight
    frames, height, width = pixels.shape[2:]
    middle = weight.new_empty((pixels.shape[0], *_middle_shape(vae, (frames, height, width))))
    for part in _tiles(high, _cells(tile), _size(middle)):
        pieces = (piece.to(weight) for piece in chunks(part.cut(pixels, 0), chunk))
        _fill(part.cut(middle, -1), _run(high, part, pieces))
    return vae.normalise(_stream(low, middle, chunk // TEMPORAL_STRIDE))


def decoder_parts(vae: WanVAE) -> tuple[Layers, Layers]:
    """The layers for the whole map, then those for tiles: they begin where the map begins to grow."""
    layers = vae.decoder.layers()
    cut = min(index for index, layer in enumerate(layers) if isinstance(layer, Upsample))
    return layers[:cut], layers[cut:]


def encoder_parts(vae: WanVAE) -> tuple[Layers, Layers]:
    """The layers for tiles, then those for the whole map: they begin where the map is smallest."""
    layers = vae.encoder.layers()
    cut = max(index for index, layer in enumerate(layers) if isinstance(layer, Downsample)) + 1
    return layers[:cut], layers[cut:]


def choose_tile(count: CountBytes, vae: WanVAE, clip: Grid, budget: int) -> Size:
    """The tile with the shortest inner sides, so with the least computed twice, that ``budget`` bytes allow.

    ``count`` is ``encode_bytes`` or ``decode_bytes``, ``clip`` is (frames, height, width) in pixels. Raises
    ``ConfigError`` where no tile of 64 pixels or more is small enough.
    """
    _, height, width = clip
    tiles = sorted(
        itertools.product(_even_sides(height), _even_sides(width)),
        key=lambda tile: -(-height // tile[0]) * width + -(-width // tile[1]) * height,
    )
    for tile in tiles:
        if count(vae, clip, tile) <= budget:
            return tile
    raise ConfigError(
        f"{budget / MIB:.0f} MiB for a clip of {height} x {width}: its smallest tile needs "
        f"{count(vae, clip, tiles[-1]) / MIB:.0f} MiB. Free some memory, or make a smaller or shorter clip."
    )


def decode_bytes(vae: WanVAE, clip: Grid, tile: Size, chunk: int = 1) -> int:
    """Peak of ``decode_tiled`` beside weights, latent and result. ``clip``: (frames, height, width) in pixels."""
    low, high = decoder_parts(vae)
    largest = _largest(high, tile, clip[1:])
    return _peak(vae, clip, _numbers(high, largest, chunk), low, chunk)


def encode_bytes(vae: WanVAE, clip: Grid, tile: Size, chunk: int = TEMPORAL_STRIDE) -> int:
    """Peak of ``encode_tiled`` beside weights, pixels and result. ``clip``: (frames, height, width) in pixels."""
    high, low = encoder_parts(vae)
    largest = _largest(high, _cells(tile), _cells(clip[1:]))
    return _peak(vae, clip, _numbers(high, largest, chunk), low, chunk // TEMPORAL_STRIDE)


def _check_tile(tile: Size) -> None:
    if min(tile) < SPATIAL_STRIDE or any(side % SPATIAL_STRIDE for side in tile):
        raise ShapeError(
            f"Tiles of {tile[0]} x {tile[1]} pixels: sides are positive multiples of {SPATIAL_STRIDE}. "
            "Try 256 x 256, or let choose_tile find the one for your memory."
        )


def _stream(layers: Layers, x: Tensor, chunk: int) -> Tensor:
    history: History = {}
    return torch.cat([through(layers, part, history) for part in chunks(x, chunk)], dim=2)


def _run(layers: Layers, tile: Tile, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
    """What the layers make of a tile, chunk by chunk."""
    history: History = {}
    for x in pieces:
        yield through(layers, x, history, tile.keep)


def _fill(room: Tensor, pieces: Iterable[Tensor]) -> None:
    """Write chunks one behind the other into ``[B C T H W]``."""
    end = 0
    for piece in pieces:
        start, end = end, end + piece.shape[2]
        room[:, :, start:end] = piece


def _tiles(layers: Layers, side: Size, size: Size) -> list[Tile]:
    """The tiles of the last layer's output, which is of ``size``, row by row."""
    return [Tile(*spans) for spans in itertools.product(*_cuts(layers, side, size))]


def _largest(layers: Layers, side: Size, size: Size) -> Tile:
    """The tile that reads most."""
    rows, columns = (max(cut, key=lambda spans: sum(b - a for a, b in spans)) for cut in _cuts(layers, side, size))
    return Tile(rows, columns)


def _cuts(layers: Layers, side: Size, size: Size) -> list[list[list[Span]]]:
    """The spans of every tile, along each axis."""
    return [
        [_spans(layers, (start, min(start + step, length)), length) for start in range(0, length, step)]
        for step, length in zip(side, size, strict=True)
    ]


def _spans(layers: Layers, wanted: Span, length: int) -> list[Span]:
    """What must be right of the first input and of each output for the last output, ``length`` long, to be right."""
    spans = [wanted]
    for layer in reversed(layers):
        if isinstance(layer, Upsample):
            length //= 2
        elif isinstance(layer, Downsample):
            length *= 2
        start, stop = _needed(layer, spans[0])
        spans.insert(0, (max(0, start), min(length, stop)))
    return spans


def _needed(layer: nn.Module, wanted: Span) -> Span:
    """The span of a layer's input that a span of its output is made of."""
    start, stop = wanted
    if isinstance(layer, Downsample):  # i is made of 2i, 2i + 1 and 2i + 2
        return 2 * start, 2 * stop + 1
    convolutions = (inner for inner in layer.modules() if isinstance(inner, nn.Conv2d | nn.Conv3d))
    reach = sum(convolution.kernel_size[-1] // 2 for convolution in convolutions)
    start, stop = start - reach, stop + reach
    return (start // 2, -(-stop // 2)) if isinstance(layer, Upsample) else (start, stop)


def _origin(layer: nn.Module, start: int) -> int:
    """Where a layer's output begins whose input begins at ``start``."""
    if isinstance(layer, Upsample):
        return 2 * start
    return start // 2 if isinstance(layer, Downsample) else start


def _peak(vae: WanVAE, clip: Grid, tile: int, low: Layers, chunk: int) -> int:
    """Bytes of the map between the parts and of the larger part: a ``tile`` of so many numbers, or the ``low`` one."""
    channels, frames, height, width = _middle_shape(vae, clip)
    middle = channels * frames * height * width
    whole = Tile(*([(0, side)] * (len(low) + 1) for side in (height, width)))
    return vae.conv1.weight.element_size() * (middle + max(tile, middle + _numbers(low, whole, chunk)))


def _numbers(layers: Layers, tile: Tile, frames: int) -> int:
    """How many numbers the layers keep of a tile's past, and hold at once at work on ``frames`` of their input."""
    past = work = 0
    fine = finest(layers)
    few = piece_frames(full_size(layers[fine.start], tile.area(fine.start))) if fine else 0
    for at, layer in enumerate(layers):
        area = tile.area(at)
        past += area * sum(_remembered(inner) for inner in layer.modules())
        now = min(frames, few) if at in fine else frames
        held = _held(layers, tile, frames) if at in fine else 0
        work = max(work, held + area * _work(layer, now))
        if isinstance(layer, Upsample) and layer.time_conv:
            frames *= 2
        elif isinstance(layer, Downsample) and layer.time_conv:
            frames //= 2
    return past + work


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


def _middle_shape(vae: WanVAE, clip: Grid) -> tuple[int, int, int, int]:
    """``(C, T, h, w)`` of the map between the tiled layers and those that see it whole."""
    frames, height, width = clip
    channels = vae.config.base_width * MULTIPLIERS[-1]
    return channels, (frames - 1) // TEMPORAL_STRIDE + 1, *_cells((height, width))


def _even_sides(length: int) -> list[int]:
    """Sides of 64 pixels or more that cut ``length`` into one, two, three, ... tiles of about the same size."""
    cells = length // SPATIAL_STRIDE
    return [-(-cells // count) * SPATIAL_STRIDE for count in range(1, max(1, length // 64) + 1)]


def _cells(pixels: Size) -> Size:
    return pixels[0] // SPATIAL_STRIDE, pixels[1] // SPATIAL_STRIDE


def _size(x: Tensor) -> Size:
    return x.shape[-2], x.shape[-1]
