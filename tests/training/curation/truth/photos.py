"""Real photographs as backdrops, and sprites to put in front of them: from wheels, or drawn where those are missing."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Pixels = NDArray[np.uint8]

# Sharp, neither dark nor empty: a filter that drops one of them as it is would be right about another plant.
FILES = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "motorcycle_left.png",
    "rocket.jpg",
)
TINTS = ((1.0, 1.0, 1.0), (1.1, 0.95, 0.8), (0.85, 1.0, 1.15), (0.95, 1.1, 0.9))
SPRITES = Path(__file__).parents[4] / "kaleido_core" / "assets" / "references"
SHAPES = 5


@cache
def photographs() -> tuple[Pixels, ...]:
    """``[H W 3]`` each, ten of them."""
    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        return tuple(_drawn(seed) for seed in range(len(FILES)))
    folder = Path(spec.origin).parent / "data"
    return tuple(np.asarray(Image.open(folder / name).convert("RGB")) for name in FILES)


def backdrop(photo: int, height: int, width: int, random: np.random.Generator) -> Pixels:
    """A part of a photograph, flipped and tinted by chance; mirrored at its borders, so that it stays as sharp."""
    picture = photographs()[photo % len(FILES)]
    if random.random() < 0.5:
        picture = picture[:, ::-1]
    tall, wide = max(height - picture.shape[0], 0), max(width - picture.shape[1], 0)
    above, left = (int(random.integers(rest + 1)) for rest in (tall, wide))
    picture = np.pad(picture, ((above, tall - above), (left, wide - left), (0, 0)), mode="symmetric")
    top = int(random.integers(picture.shape[0] - height + 1))
    side = int(random.integers(picture.shape[1] - width + 1))
    tint = np.asarray(TINTS[int(random.integers(len(TINTS)))], dtype=np.float32)
    return (picture[top : top + height, side : side + width] * tint).clip(0, 255).astype(np.uint8)


@cache
def sprites() -> tuple[Pixels, ...]:
    """``[H W 4]`` each, with their outline as alpha: the bundled references and some drawn shapes."""
    bundled = (_cut_out(Image.open(path)) for path in sorted(SPRITES.glob("*.png")))
    return (*bundled, *(_shape(seed) for seed in range(SHAPES)))


def _cut_out(picture: Image.Image) -> Pixels:
    """What is not the white around the subject."""
    picture = picture.convert("RGB").resize((180, 180))
    outside = picture.copy()
    ImageDraw.floodfill(outside, (0, 0), (255, 0, 255), thresh=40)
    inside = np.any(np.asarray(outside) != (255, 0, 255), axis=2)
    return np.dstack([np.asarray(picture), inside.astype(np.uint8) * 255])


def _shape(seed: int) -> Pixels:
    """A star with stripes, eyes and a colour of its own."""
    random = np.random.default_rng(900 + seed)
    picture = Image.new("RGBA", (180, 180))
    draw = ImageDraw.Draw(picture)
    colour = tuple(int(part) for part in random.integers((40, 100, 40), 230))
    points, spokes = [], 2 * int(random.integers(4, 9))
    for spoke in range(spokes):
        angle, radius = 2 * np.pi * spoke / spokes, 85 if spoke % 2 else float(random.uniform(45, 70))
        points.append((90 + radius * np.cos(angle), 90 + radius * np.sin(angle)))
    draw.polygon(points, fill=(*colour, 255))
    for stripe in range(60, 125, 12):
        draw.line((60, stripe, 120, stripe + 8), fill=(255 - colour[0], colour[2], 255 - colour[1], 255), width=4)
    for eye in (70, 110):
        draw.ellipse((eye - 12, 58, eye + 12, 82), fill=(250, 250, 250, 255), outline=(10, 10, 10, 255))
        draw.ellipse((eye - 5, 65, eye + 5, 75), fill=(10, 10, 10, 255))
    return np.asarray(picture)


def _drawn(seed: int) -> Pixels:
    """Noise on every scale with hard-edged blocks in it, about as busy as a photograph."""
    random = np.random.default_rng(seed)
    total = np.zeros((512, 640, 3), dtype=np.float32)
    for step in (4, 16, 64):
        coarse = random.integers(0, 256, (512 // step, 640 // step, 3), dtype=np.uint8)
        total += np.asarray(Image.fromarray(coarse).resize((640, 512), Image.Resampling.BICUBIC), dtype=np.float32) / 3
    picture = Image.fromarray(total.astype(np.uint8)).filter(ImageFilter.SHARPEN)
    draw = ImageDraw.Draw(picture)
    for _ in range(40):
        left, top, width, height = (int(value) for value in random.integers((0, 0, 20, 20), (600, 480, 120, 120)))
        colour = tuple(int(part) for part in random.integers(20, 236, 3))
        draw.rectangle((left, top, left + width, top + height), fill=colour)
    return np.asarray(picture)
