"""Encode and decode in tiles without seams: what a tile needs of its neighbours is computed again, nothing is blended.

The attention sees whole frames, so the layers at the lowest resolution run on the whole map; that is small. Those at
the higher resolutions run tile by tile, and the whole clip streams through one tile before the next begins. A tile
reads more than what is kept of it: behind each layer the edge goes that the layer's padding falsified. At the
picture's own edges the padding is right and nothing goes. So the result is the untiled one, up to the order in which
a convolution sums.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import ShapeError
from ..shapes import SPATIAL_STRIDE, TEMPORAL_STRIDE, Grid
from .layers import Downsample, History, Upsample, through
from .model import MULTIPLIERS, WanVAE, chunks, encodable, room_for_pixels

Size = tuple[int, int]  # height and width
Span = tuple[int, int]  # from, to (exclusive), along one axis of some layer's map
Layers = Sequence[nn.Module]


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
    middle = weight.new_empty((pixels.shape[0], *middle_shape(vae, (frames, height, width))))
    for part in _tiles(high, cells(tile), _size(middle)):
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


def largest_tile(layers: Layers, side: Size, size: Size) -> Tile:
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


def middle_shape(vae: WanVAE, clip: Grid) -> tuple[int, int, int, int]:
    """``(C, T, h, w)`` of the map between the tiled layers and those that see it whole."""
    frames, height, width = clip
    channels = vae.config.base_width * MULTIPLIERS[-1]
    return channels, (frames - 1) // TEMPORAL_STRIDE + 1, *cells((height, width))


def cells(pixels: Size) -> Size:
    return pixels[0] // SPATIAL_STRIDE, pixels[1] // SPATIAL_STRIDE


def _size(x: Tensor) -> Size:
    return x.shape[-2], x.shape[-1]
