"""How different two sights of one subject are: by outline and by what is drawn inside."""

import numpy as np
from numpy.typing import NDArray

from .masks import Area, box_of, cv2
from .models.kinds import Pixels

SIDE = 64


def pose_difference(one: tuple[Pixels, Pixels], other: tuple[Pixels, Pixels]) -> float:
    """0 for the same picture (moved, scaled or lit otherwise), about 0.5 for another pose; of (crop, mask) each."""
    first, second = _normal(*one), _normal(*other)
    both, either = first[1] & second[1], first[1] | second[1]
    outline = float(both.sum()) / max(float(either.sum()), 1.0)
    return 1.0 - 0.5 * outline - 0.5 * max(_correlation(first[0], second[0], both), 0.0)


def _normal(crop: Pixels, mask: Pixels) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Grey and mask, the mask's box fitted into the middle of a square."""
    left, top, right, bottom = (int(value) for value in box_of(mask))
    if right <= left or bottom <= top:
        return np.zeros((SIDE, SIDE), np.float32), np.zeros((SIDE, SIDE), np.bool_)
    factor = SIDE / max(right - left, bottom - top)
    size = (max(1, round((right - left) * factor)), max(1, round((bottom - top) * factor)))
    grey = cv2().cvtColor(crop[top:bottom, left:right], cv2().COLOR_RGB2GRAY)
    grey = cv2().GaussianBlur(cv2().resize(grey, size, interpolation=cv2().INTER_AREA), (0, 0), 1.0)
    inner = cv2().resize(mask[top:bottom, left:right], size, interpolation=cv2().INTER_AREA) >= 128
    y, x = (SIDE - size[1]) // 2, (SIDE - size[0]) // 2
    canvas, area = np.zeros((SIDE, SIDE), np.float32), np.zeros((SIDE, SIDE), np.bool_)
    canvas[y : y + size[1], x : x + size[0]] = grey
    area[y : y + size[1], x : x + size[0]] = inner
    return canvas, area


def _correlation(one: NDArray[np.float32], other: NDArray[np.float32], area: NDArray[np.bool_]) -> float:
    """Of the two greys over ``area``: light and contrast do not count."""
    if area.sum() < 50:
        return 0.0
    first, second = one[area] - one[area].mean(), other[area] - other[area].mean()
    scale = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float((first * second).sum()) / scale if scale > 1e-3 else 1.0


def colours(crop: Pixels, mask: Pixels) -> NDArray[np.float32]:
    """Histogram of hue and chroma inside the mask, adding to 1; light counts little."""
    table = lab_histogram(cv2().cvtColor(crop, cv2().COLOR_RGB2LAB), mask >= 128, light=3, chroma=24).ravel()
    return (table / max(float(table.sum()), 1e-6)).astype(np.float32)


def lab_histogram(lab: Pixels, where: Area, light: int, chroma: int) -> NDArray[np.float32]:
    """Of CIELAB pixels, in so many steps ``[light chroma chroma]`` (a and b from 64 to 192), smooth in chroma."""
    steps, ranges = [light, chroma, chroma], [0, 256, 64, 192, 64, 192]
    table = cv2().calcHist([lab], [0, 1, 2], where.astype(np.uint8), steps, ranges)
    return np.stack([cv2().GaussianBlur(plane, (0, 0), 1.0) for plane in table])


def surroundings(crop: Pixels, mask: Pixels, real: Area) -> NDArray[np.float32]:
    """The colours around the mask, where the crop is ``real``: what it has beyond its frame does not count."""
    return colours(crop, np.where((mask < 128) & real, 255, 0).astype(np.uint8))


def same_colours(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Intersection of two histograms: 1 for the same colours."""
    return float(np.minimum(one, other).sum())
