"""Backdrops: drawn as numbers, named for prompts, painted on any device.

Everything but a photograph is one picture of ``mix`` in 0..1 between two colours.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .photos import PHOTOS, PhotoSet

KINDS = ("plain", "gradient", "stripes", "checks", "dots", "clouds", "night", "land", "photo")
PALETTE = {
    "red": (0.80, 0.18, 0.18), "orange": (0.95, 0.56, 0.18), "yellow": (0.96, 0.85, 0.32),
    "lime green": (0.64, 0.83, 0.30), "green": (0.20, 0.58, 0.30), "teal": (0.13, 0.55, 0.56),
    "turquoise": (0.38, 0.83, 0.80), "sky blue": (0.53, 0.78, 0.95), "blue": (0.20, 0.38, 0.80),
    "navy": (0.10, 0.15, 0.36), "purple": (0.48, 0.27, 0.66), "lavender": (0.78, 0.71, 0.93),
    "pink": (0.96, 0.64, 0.76), "brown": (0.45, 0.30, 0.20), "beige": (0.91, 0.85, 0.72),
    "white": (0.97, 0.97, 0.97), "grey": (0.55, 0.56, 0.58), "black": (0.08, 0.08, 0.09),
}  # fmt: skip
STRIPES = ("vertical", "horizontal", "diagonal")
LANDS = {
    "the sea under a blue sky": ((0.62, 0.83, 0.97), (0.14, 0.42, 0.66)),
    "a green meadow under a blue sky": ((0.60, 0.81, 0.97), (0.36, 0.64, 0.26)),
    "a sandy desert under a clear sky": ((0.66, 0.84, 0.94), (0.86, 0.71, 0.45)),
    "a snowy field under a grey sky": ((0.66, 0.71, 0.77), (0.93, 0.95, 0.98)),
    "the sea at sunset": ((0.97, 0.65, 0.42), (0.30, 0.28, 0.50)),
}
NIGHTS = ("a starry night sky", "a dark sky full of stars")
_STARS = 22
_COLOURS = torch.tensor(list(PALETTE.values()))
_LAND_COLOURS = torch.tensor(list(LANDS.values()))
_VARIANTS = {"stripes": len(STRIPES), "night": len(NIGHTS), "land": len(LANDS), "photo": len(PHOTOS)}


@dataclass(frozen=True)
class Backdrop:
    """Backdrops of any leading shape: ``kind`` and ``variant`` int64 ``[...]``, ``hue`` int64 ``[... 2]`` (palette),
    ``colours`` float32 ``[... 2 3]`` in 0..1, ``numbers`` float32 ``[... 8]`` in 0..1 (what the kind makes of them)."""

    kind: Tensor
    variant: Tensor
    hue: Tensor
    colours: Tensor
    numbers: Tensor

    def __getitem__(self, index: slice | Tensor | tuple[slice | Tensor | int, ...]) -> "Backdrop":
        return Backdrop(
            self.kind[index], self.variant[index], self.hue[index], self.colours[index], self.numbers[index]
        )


def draw_backdrops(rng: np.random.Generator, shape: tuple[int, ...], odds: Mapping[str, float]) -> Backdrop:
    """Random backdrops of a leading ``shape``; ``odds`` weighs the kinds ("white" is plain and truly white)."""
    weights = np.array(list(odds.values()))
    row = torch.from_numpy(rng.choice(len(odds), shape, p=weights / weights.sum()))
    is_white = torch.tensor([name == "white" for name in odds])[row]
    kind = torch.tensor([KINDS.index("plain" if name == "white" else name) for name in odds])[row]
    counts = torch.tensor([_VARIANTS.get(name, 1) for name in KINDS])[kind]
    variant = (torch.from_numpy(rng.random(shape)) * counts).long()
    first = torch.from_numpy(rng.integers(0, len(PALETTE), shape))
    second = (first + torch.from_numpy(rng.integers(1, len(PALETTE), shape))) % len(PALETTE)
    hue = torch.stack([first, second], -1)
    colours = _COLOURS[hue]
    # Full contrast is too much fine detail for a small autoencoder.
    textured = torch.tensor([name in ("stripes", "checks", "dots") for name in KINDS])[kind]
    colours[..., 1, :] = torch.lerp(colours[..., 0, :], colours[..., 1, :], 1 - 0.3 * textured[..., None].float())
    colours[kind == KINDS.index("land")] = _LAND_COLOURS[variant[kind == KINDS.index("land")]]
    colours[kind == KINDS.index("night")] = torch.tensor([[0.06, 0.08, 0.22], [0.95, 0.95, 0.85]])
    colours[kind == KINDS.index("photo")] = 0.45
    colours = colours + torch.from_numpy(rng.uniform(-0.04, 0.04, colours.shape)).float()
    colours[is_white] = 1.0
    return Backdrop(kind, variant, hue, colours.clamp(0, 1), torch.from_numpy(rng.random((*shape, 8))).float())


def describe(kind: int, variant: int, hue: tuple[int, int]) -> tuple[str, str]:
    """The preposition and the words of one backdrop: ``("on", "a plain teal background")``."""
    names = tuple(PALETTE)
    one, two = names[hue[0]], names[hue[1]]
    article = "an" if one[0] in "aeiou" else "a"
    return {
        "plain": ("on", f"a plain {one} background"),
        "gradient": ("on", f"{article} {one} to {two} gradient"),
        "stripes": ("on", f"{STRIPES[variant % len(STRIPES)]} {one} and {two} stripes"),
        "checks": ("on", f"{article} {one} and {two} checkerboard"),
        "dots": ("on", f"{article} {one} background with {two} dots"),
        "clouds": ("in front of", f"soft {one} and {two} clouds"),
        "night": ("against", NIGHTS[variant % len(NIGHTS)]),
        "land": ("in front of", tuple(LANDS)[variant % len(LANDS)]),
        "photo": ("in front of", PHOTOS[variant % len(PHOTOS)].name),
    }[KINDS[kind]]


def _edge(distance: Tensor) -> Tensor:
    """0 or 1 with a soft edge two pixels of 128 wide."""
    return torch.sigmoid(distance * 120)


def _plain(x: Tensor, y: Tensor, numbers: Tensor, variant: Tensor) -> Tensor:
    return torch.zeros_like(numbers[:, 0] + x)


def _gradient(x: Tensor, y: Tensor, numbers: Tensor, variant: Tensor) -> Tensor:
    angle = 2 * math.pi * numbers[:, 0]
    return (0.5 + 0.42 * (x * angle.cos() + y * angle.sin())).clamp(0, 1)


def _stripes(x: Tensor, y: Tensor, numbers: Tensor, variant: Tensor) -> Tensor:
    period = 0.4 + 0.45 * numbers[:, 0]
    across = torch.where(variant == 0, x, torch.where(variant == 1, y, (x + y) * math.sqrt(0.5)))
    return _edge(period / 6 * torch.sin(2 * math.pi * (across / period + numbers[:, 1])))


def _checks(x: Tensor, y: Tensor, numbers: Tensor, variant: Tensor) -> Tensor:
    cell = 0.3 + 0.35 * numbers[:, 0]
    waves = torch.sin(math.pi * (x / cell + numbers[:, 1])) * torch.sin(math.pi * (y / cell + numbers[:, 2]))
    return _edge(cell / 4 * waves)


def _dots(x: Tensor, y: Tensor, numbers: Tensor, variant: Tensor) -> Tensor:
    cell = 0.36 + 0.3 * numbers[:, 0]
    across = (x / cell + numbers[:, 1]).remainder(1) - 0.5
    down = (y / cell + numbers[:, 2]).remainder(1) - 0.5
    return _edge(cell * (0.2 + 0.1 * numbers[:, 3] - torch.hypot(across, down)))


def _clouds(x: Tensor, y: Tensor, numbers: Tensor, variant: Tensor) -> Tensor:
    mix = torch.zeros_like(numbers[:, 0] + x)
    for wave in range(4):
        angle, phase = 2 * math.pi * numbers[:, wave], 2 * math.pi * numbers[:, wave + 4]
        along = x * angle.cos() + y * angle.sin()
        mix = mix + torch.sin((2 + 1.3 * wave) * along + phase + 1.5 * mix) / (1 + 0.4 * wave)
    return (0.5 + 0.25 * mix).clamp(0, 1)


def _night(x: Tensor, y: Tensor, numbers: Tensor, variant: Tensor) -> Tensor:
    star = torch.arange(1, _STARS + 1, device=x.device).view(1, -1, 1, 1)
    # Any chaotic sequence does: the stars are spread and differ from clip to clip.
    across = 2 * (numbers[:, 0:1] + 0.7549 * star + 0.3 * torch.sin(7 * star * (1 + numbers[:, 2:3]))).remainder(1) - 1
    down = 2 * (numbers[:, 1:2] + 0.5698 * star).remainder(1) - 1
    radius = 0.02 + 0.02 * (0.618 * star + numbers[:, 3:4]).remainder(1)
    distance = torch.hypot(x - across, y - down)  # [n stars H W]
    return torch.exp(-((distance / radius) ** 2)).amax(1)


def _land(x: Tensor, y: Tensor, numbers: Tensor, variant: Tensor) -> Tensor:
    horizon = 0.5 * numbers[:, 0] - 0.1
    depth = y - horizon - 0.03 * numbers[:, 1] * torch.sin(4 * x + 6 * numbers[:, 2])
    return _edge(depth) * (0.85 + 0.15 * depth.clamp(0, 1)) + (1 - _edge(depth)) * 0.1 * (1 + y).clamp(0, 1)


_MIX = {"plain": _plain, "gradient": _gradient, "stripes": _stripes, "checks": _checks, "dots": _dots,
        "clouds": _clouds, "night": _night, "land": _land}  # fmt: skip


def paint_backdrops(backdrop: Backdrop, photos: PhotoSet, size: int, device: str | torch.device) -> Tensor:
    """n backdrops as ``[n 3 size size]`` float32 in 0..1 on ``device``. ``photos`` lie there too."""
    colours = backdrop.colours.to(device)[..., None, None]
    painted = colours[:, 0].expand(-1, -1, size, size).clone()
    pixel = (torch.arange(size, device=device) + 0.5) * 2 / size - 1
    y, x = torch.meshgrid(pixel, pixel, indexing="ij")
    for kind in backdrop.kind.unique().tolist():
        here = (backdrop.kind == kind).nonzero()[:, 0]
        numbers = backdrop.numbers[here].to(device)
        variant = backdrop.variant[here].to(device)
        here = here.to(device)
        if KINDS[kind] == "photo":
            painted[here] = _crop_photos(photos, variant, numbers, size)
            continue
        mix = _MIX[KINDS[kind]](x, y, numbers[..., None, None], variant.view(-1, 1, 1))
        painted[here] = torch.lerp(colours[here, 0], colours[here, 1], mix[:, None])
    return painted


def _crop_photos(photos: PhotoSet, variant: Tensor, numbers: Tensor, size: int) -> Tensor:
    """Random crops, ``[n 3 size size]``. Halved and blurred first, so that a small autoencoder can draw them."""
    halved = functional.avg_pool2d(photos.pixels[variant].float() / 255, 2)
    halved = functional.avg_pool2d(halved, 3, stride=1, padding=1, count_include_pad=False)
    zoom = 0.55 + 0.4 * numbers[:, 0]
    shift = (1 - zoom)[:, None] * (2 * numbers[:, 1:3] - 1)
    mirror = torch.where(numbers[:, 3] < 0.5, -1.0, 1.0)
    zero = torch.zeros_like(zoom)
    affine = torch.stack([zoom * mirror, zero, shift[:, 0], zero, zoom, shift[:, 1]], -1).view(-1, 2, 3)
    grid = functional.affine_grid(affine, [len(variant), 3, size, size], align_corners=False)
    return functional.grid_sample(halved, grid, padding_mode="border", align_corners=False)
