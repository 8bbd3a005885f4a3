"""Boxes: how they overlap, and which of those found twice stays."""

from collections.abc import Sequence

from .clip import Box
from .models.kinds import Found


def area(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def shared(one: Box, other: Box) -> float:
    """The area that both cover."""
    return area((max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3])))


def overlap(one: Box, other: Box) -> float:
    """Intersection over union: 1 for the same box."""
    common = shared(one, other)
    return common / max(area(one) + area(other) - common, 1e-6)


def within(one: Box, other: Box) -> float:
    """The share of ``one`` that lies in ``other``."""
    return shared(one, other) / max(area(one), 1e-6)


def moved(box: Box, right: float, down: float) -> Box:
    return (box[0] + right, box[1] + down, box[2] + right, box[3] + down)


def grown(box: Box, share: float, height: int, width: int) -> Box:
    """Larger by ``share`` of its sides on each side, inside the picture."""
    right, down = share * (box[2] - box[0]), share * (box[3] - box[1])
    return clipped((box[0] - right, box[1] - down, box[2] + right, box[3] + down), height, width)


def clipped(box: Box, height: int, width: int) -> Box:
    left, right = (min(max(value, 0.0), float(width)) for value in (box[0], box[2]))
    top, bottom = (min(max(value, 0.0), float(height)) for value in (box[1], box[3]))
    return (left, top, right, bottom)


def whole(box: Box) -> tuple[int, int, int, int]:
    """In whole pixels, outwards."""
    return int(box[0]), int(box[1]), -int(-box[2] // 1), -int(-box[3] // 1)


def scaled(box: Box, factor: float) -> Box:
    return (box[0] * factor, box[1] * factor, box[2] * factor, box[3] * factor)


def single(found: Sequence[Found], limit: float = 0.6) -> list[Found]:
    """The surest of those that overlap, whatever they are called: a thing with two labels is one thing."""
    kept: list[Found] = []
    for item in sorted(found, key=lambda item: -item.score):
        if all(overlap(item.box, other.box) < limit for other in kept):
            kept.append(item)
    return kept
