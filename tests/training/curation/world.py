"""A planted world: coloured sprites over grey places, with models that know the truth."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from training.curation.clip import Box
from training.curation.models.kinds import Face, Found, Pixels, Vector

HEIGHT, WIDTH = 240, 320


def background(seed: int, height: int = HEIGHT, width: int = WIDTH) -> Pixels:
    """Soft grey noise with an edge at every 20 pixels: a place that looks like nothing else."""
    chance = np.random.default_rng(seed)
    coarse = chance.integers(60, 160, (height // 20 + 1, width // 20 + 1, 1)).repeat(20, 0).repeat(20, 1)
    return np.repeat(coarse[:height, :width], 3, axis=2).astype(np.uint8)


@dataclass(frozen=True)
class Sprite:
    """A disc of ``colour`` with dark spots; ``lean`` moves the spots and squeezes it: another pose."""

    colour: tuple[int, int, int]
    radius: int = 44
    lean: float = 0.0

    def area(self, x: float, y: float, shape: tuple[int, ...] = (HEIGHT, WIDTH)) -> np.ndarray:
        rows, columns = np.mgrid[: shape[0], : shape[1]]
        return ((columns - x) / (1 - 0.4 * abs(self.lean))) ** 2 + (rows - y) ** 2 <= self.radius**2

    def draw(self, picture: Pixels, x: float, y: float) -> Pixels:
        area = self.area(x, y, picture.shape)
        rows, columns = np.mgrid[: picture.shape[0], : picture.shape[1]]
        spots = ((columns - x + 60 * self.lean) // 9 + (rows - y) // 9) % 2 > 0
        made = picture.copy()
        made[area] = self.colour
        made[area & spots] = np.array(self.colour) // 2
        return made

    def box(self, x: float, y: float) -> Box:
        half = self.radius * (1 - 0.4 * abs(self.lean))
        return (x - half, y - self.radius, x + half, y + self.radius)


def is_coloured(picture: Pixels) -> np.ndarray:
    """Sprites are coloured, places are grey."""
    wide = picture.astype(int)
    return wide.max(axis=2) - wide.min(axis=2) > 25


@dataclass
class PlantedDetector:
    """Tells the boxes of a list, picture after picture; of pictures that are not in it, what is coloured."""

    frames: Sequence[tuple[Pixels, Sequence[Found]]] = ()

    def find(self, picture: Pixels, words: Sequence[str] = ()) -> list[Found]:
        for known, found in self.frames:
            if known is picture:
                return list(found)
        rows, columns = np.nonzero(is_coloured(picture))
        if len(rows) < 50:
            return []
        box = (float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1))
        return [Found("thing", box, 0.9)]


class ColourSegmenter:
    """All that is coloured in a box a little larger: like a salient-object model, it does not part two subjects."""

    def mask(self, picture: Pixels, box: Box) -> Pixels:
        left, top, right, bottom = (int(value) for value in box)
        mask = np.zeros(picture.shape[:2], np.uint8)
        rows, columns = slice(max(top - 6, 0), bottom + 6), slice(max(left - 6, 0), right + 6)
        mask[rows, columns] = is_coloured(picture[rows, columns]) * 255
        return mask


class ColourEmbedder:
    """The direction of the mean colour over the grey: one sprite's in any pose and light."""

    def embed(self, picture: Pixels, mask: Pixels | None = None) -> Vector:
        area = is_coloured(picture) if mask is None else mask >= 128
        colour = picture[area].astype(np.float32).mean(axis=0) if area.any() else np.ones(3, np.float32)
        colour = colour - 0.8 * colour.min()
        return (colour / max(float(np.linalg.norm(colour)), 1e-6)).astype(np.float32)


@dataclass
class PlantedFaces:
    """Finds the faces that it is told."""

    found: list[Face] = field(default_factory=list)

    def faces(self, picture: Pixels) -> list[Face]:
        return self.found

    def likeness(self, one: Vector, other: Vector) -> float:
        return float(one @ other)


class Fill:
    """Grey over what is missing."""

    def fill(self, picture: Pixels, mask: Pixels, prompt: str = "") -> Pixels:
        made = picture.copy()
        made[mask >= 128] = 110
        return made
