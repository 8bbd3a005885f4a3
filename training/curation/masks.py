"""Masks: cleaned, measured, and refused when they are not one whole thing with a true outline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .boxes import clipped, grown, overlap, whole
from .clip import Box, Drop
from .models.kinds import Pixels
from .packages import load

Area = NDArray[np.bool_]
STAGE = "subjects"


@dataclass(frozen=True)
class MaskConfig:
    """Limits of a clean mask. Dropping is cheap: a track has many frames."""

    largest: float = 0.85  # share of the largest component
    hole: float = 0.02  # smaller holes (shares of the mask) are filled; larger ones may be seen through
    shared: float = 0.25  # share inside another detection of higher score
    contested: float = 0.03  # share that another subject's mask claims as well
    border: float = 0.06  # share of the outline that lies on the picture's left, right or upper border,
    floor: float = 0.30  # and on its lower one: people are often cut there
    cut: float = 0.03  # share of the outline that lies on the box: the thing goes on outside of it
    fill: float = 0.30  # share of its box that a mask covers at least,
    full: float = 0.93  # and at most: beyond, the box itself came back
    unsure: float = 0.10  # share of half-sure pixels, of the mask
    edge: float = 1.50  # gradient on the outline, against that beside it
    agrees: float = 0.80  # overlap of the mask's own box with the detector's: ears or legs are not lost
    stable: float = 0.94  # overlap with the mask of the mirrored picture in a box that is larger by ``push``
    push: float = 0.10


@dataclass(frozen=True)
class Cleaned:
    """A mask of 0 and 255, what was measured on it, and why it is refused (None: it is not)."""

    mask: Pixels
    scores: Mapping[str, float]
    fault: Drop | None


@dataclass(frozen=True)
class Rival:
    """Another thing in the same frame; ``mask`` is None where only its box is known."""

    box: Box
    score: float
    mask: Pixels | None = None


def cv2() -> Any:
    return load("cv2", "opencv-python-headless")


def clean(picture: Pixels, raw: Pixels, box: Box, score: float, rivals: Sequence[Rival], config: MaskConfig) -> Cleaned:
    """The subject of ``box`` out of a segmenter's ``raw`` mask: without rivals, loose parts, holes and hairs."""
    height, width = raw.shape
    frame = grown(box, 0.06, height, width)
    area = inside(raw >= 128, frame)
    scores = {"unsure": _share((raw > 40) & (raw < 215), area)}
    scores["shared"] = max((_share(area & _ground(r, raw.shape), area) for r in rivals if r.score > score), default=0.0)
    claimed = np.zeros_like(area)
    for rival in rivals:
        if rival.mask is not None:
            claimed |= rival.mask >= 128
    scores["contested"] = _share(area & claimed, area)
    scores["filled"] = _share(fill_holes(area & ~claimed, config.hole) & ~area & ~claimed, area)
    area, scores["largest"] = _one_piece(area & ~claimed, config)
    left, top, right, bottom = whole(box)
    scores["fill"] = float(area.sum()) / max((right - left) * (bottom - top), 1)
    scores["border"], scores["floor"], scores["cut"] = border_shares(area, frame)
    scores["edge"] = edge_ratio(picture, area)
    mask = np.where(area, 255, 0).astype(np.uint8)
    scores["agrees"] = overlap(box_of(mask), clipped(box, height, width))
    return Cleaned(mask, scores, _fault(scores, config))


def tidy(raw: Pixels, box: Box, config: MaskConfig) -> Pixels:
    """A ``raw`` mask as ``clean`` leaves it where nothing else is near."""
    area, _ = _one_piece(inside(raw >= 128, grown(box, 0.06, *raw.shape)), config)
    return np.where(area, 255, 0).astype(np.uint8)


def _one_piece(area: Area, config: MaskConfig) -> tuple[Area, float]:
    """Without hairs, loose parts and small holes; and the share of all that the kept part had."""
    kept, share = largest(smooth(area))
    return fill_holes(kept, config.hole), share


def _fault(scores: Mapping[str, float], config: MaskConfig) -> Drop | None:
    for name in ("shared", "contested", "border", "floor", "cut", "unsure"):
        limit: float = getattr(config, name)
        if scores[name] > limit:
            return Drop(STAGE, f"mask {name}", scores[name], limit)
    if scores["fill"] > config.full:
        return Drop(STAGE, "mask full", scores["fill"], config.full)
    for name in ("largest", "fill", "agrees", "edge"):
        limit = getattr(config, name)
        if scores[name] < limit:
            return Drop(STAGE, f"mask {name}", scores[name], limit)
    return None


def crowded(mask: Pixels, boxes: Sequence[Box]) -> float:
    """The greatest share of a mask that lies in one of ``boxes``."""
    area = mask >= 128
    return max((_share(inside(area, box), area) for box in boxes), default=0.0)


def _share(part: Area, area: Area) -> float:
    return float(part.sum()) / max(float(area.sum()), 1.0)


def _ground(rival: Rival, shape: tuple[int, ...]) -> Area:
    """What a rival covers: its mask, or its box."""
    if rival.mask is not None:
        return rival.mask >= 128
    return inside(np.ones(shape, dtype=bool), rival.box)


def inside(area: Area, box: Box) -> Area:
    """``area`` without what lies outside ``box``."""
    left, top, right, bottom = whole(box)
    kept = np.zeros_like(area)
    kept[max(top, 0) : bottom, max(left, 0) : right] = area[max(top, 0) : bottom, max(left, 0) : right]
    return kept


def largest(area: Area) -> tuple[Area, float]:
    """The largest connected part, and its share of all."""
    count, labels, stats, _ = cv2().connectedComponentsWithStats(area.astype(np.uint8), connectivity=8)
    if count < 2:
        return area, 0.0
    sizes = stats[1:, 4]
    return labels == 1 + int(sizes.argmax()), float(sizes.max()) / float(sizes.sum())


def fill_holes(area: Area, limit: float) -> Area:
    """With holes below ``limit`` of its own size filled; the gap between two legs stays."""
    count, labels, stats, _ = cv2().connectedComponentsWithStats((~area).astype(np.uint8), connectivity=4)
    rim = set(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]).tolist())
    small = [n for n in range(1, count) if n not in rim and stats[n, 4] < limit * area.sum()]
    return area | (np.isin(labels, small) & ~area)


def smooth(area: Area) -> Area:
    """Opened, then closed, by a disc of 1 % of its size: hairs and notches go."""
    radius = max(1, round(0.01 * float(area.sum()) ** 0.5))
    return closed(opened(area, radius), radius)


def bitten(area: Area) -> float:
    """The largest narrow notch, as a share of all: a blade of grass that stands before the subject leaves one."""
    radius = max(2, round(0.03 * float(area.sum()) ** 0.5))
    framed = np.pad(area, 2 * radius + 1)  # beyond the border OpenCV erodes nothing: what was closed there would stay
    return _part(closed(framed, radius) & ~framed, area, 0.005)


def lost_part(one: Pixels, other: Pixels) -> float:
    """The largest compact part that only one of two masks has, as a share of ``one``: an ear, or a foot."""
    first, second = one >= 128, other >= 128
    return max(_part(first & ~second, first, 0.012), _part(second & ~first, first, 0.012))


def _part(region: Area, area: Area, width: float) -> float:
    """The share of ``area`` that the largest piece of ``region`` has, without what is narrower than ``width`` of it."""
    radius = max(1, round(width * float(area.sum()) ** 0.5))
    _, _, stats, _ = cv2().connectedComponentsWithStats(opened(region, radius).astype(np.uint8), connectivity=8)
    return float(stats[1:, 4].max(initial=0)) / max(float(area.sum()), 1.0)


def opened(area: Area, radius: int) -> Area:
    """Without what is narrower than a disc of ``radius`` pixels."""
    return cv2().morphologyEx(area.astype(np.uint8), cv2().MORPH_OPEN, disc(radius)) > 0


def closed(area: Area, radius: int) -> Area:
    """With the gaps filled that are narrower than a disc of ``radius`` pixels."""
    return cv2().morphologyEx(area.astype(np.uint8), cv2().MORPH_CLOSE, disc(radius)) > 0


def dilated(area: Area, radius: int) -> Area:
    """``radius`` pixels larger all around; smaller for a negative one."""
    byte = area.astype(np.uint8)
    return (cv2().dilate(byte, disc(radius)) if radius > 0 else cv2().erode(byte, disc(-radius))) > 0


def disc(radius: int) -> Pixels:
    """The structuring element of OpenCV, ``2 * radius + 1`` pixels wide."""
    return cv2().getStructuringElement(cv2().MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))


def outline(area: Area) -> Area:
    """The pixels of ``area`` beside something else, or on the border."""
    return area & ~(cv2().erode(area.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=0) > 0)


def border_shares(area: Area, box: Box) -> tuple[float, float, float]:
    """Shares of the outline on the picture's left, right and upper border, on its lower one, and on ``box``.

    There the subject goes on where we do not see it, or where the box has cut it.
    """
    height, width = area.shape
    rows, columns = np.nonzero(outline(area))
    total = max(len(rows), 1)
    around = (rows < 3) | (columns < 3) | (columns >= width - 3)
    below = (rows >= height - 3) & ~around
    left, top, right, bottom = whole(box)
    boxed = (rows < top + 2) | (rows >= bottom - 2) | (columns < left + 2) | (columns >= right - 2)
    return around.sum() / total, below.sum() / total, (boxed & ~around & ~below).sum() / total


def edge_ratio(picture: Pixels, area: Area) -> float:
    """The gradient at the outline against that a little inside and outside: above 1 where the outline is true."""
    if not area.any():
        return 0.0
    grey = cv2().GaussianBlur(cv2().cvtColor(picture, cv2().COLOR_RGB2GRAY), (0, 0), 1.0).astype(np.float32)
    gradient = np.hypot(cv2().Sobel(grey, cv2().CV_32F, 1, 0), cv2().Sobel(grey, cv2().CV_32F, 0, 1))
    reach = max(2, round(0.01 * float(area.sum()) ** 0.5))
    bands = [dilated(area, r) for r in (-4 * reach, -2 * reach, -reach, reach, 2 * reach, 4 * reach)]
    visible = np.zeros_like(area)
    visible[3:-3, 3:-3] = True
    near = bands[3] & ~bands[2] & visible
    beside = ((bands[5] & ~bands[4]) | (bands[1] & ~bands[0])) & visible
    if not near.any() or not beside.any():
        return 0.0
    return float(gradient[near].mean()) / max(float(gradient[beside].mean()), 1.0)


def overlap_of(one: Pixels, other: Pixels) -> float:
    """Intersection over union of two masks."""
    first, second = one >= 128, other >= 128
    return float((first & second).sum()) / max(float((first | second).sum()), 1.0)


def box_of(mask: Pixels) -> Box:
    """The smallest box around a mask; empty for an empty one."""
    rows, columns = np.flatnonzero(mask.max(axis=1) >= 128), np.flatnonzero(mask.max(axis=0) >= 128)
    if not len(rows):
        return (0.0, 0.0, 0.0, 0.0)
    return (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))


def sharpness(picture: Pixels, mask: Pixels | None = None) -> float:
    """Variance of the Laplacian, the longer side at 256 pixels; of a masked picture only inside the outline."""
    factor = 256 / max(picture.shape[:2])
    way = cv2().INTER_AREA if factor < 1 else cv2().INTER_LINEAR
    grey = cv2().cvtColor(cv2().resize(picture, None, fx=factor, fy=factor, interpolation=way), cv2().COLOR_RGB2GRAY)
    laplacian = cv2().Laplacian(grey, cv2().CV_32F)
    if mask is None:
        return float(laplacian.var())
    small = cv2().resize(mask, (grey.shape[1], grey.shape[0]), interpolation=cv2().INTER_NEAREST)
    core = cv2().erode((small >= 128).astype(np.uint8), np.ones((5, 5), np.uint8), borderValue=0) > 0
    return float(laplacian[core].var()) if core.sum() > 50 else 0.0
