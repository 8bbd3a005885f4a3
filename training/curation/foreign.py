"""Patches inside a mask that belong to the background: grass in the bend of an arm, sky below an ear."""

import numpy as np
from numpy.typing import NDArray

from .masks import Area, cv2, dilated, opened
from .models.kinds import Pixels
from .pose import lab_histogram

SIDE = 256  # pixels of the longer side, at which patches are looked for
RIM = 2.0  # pixels beside the outline, which are mixed colours
CORE, AROUND = 0.08, 0.12  # how far from the outline the subject's own colours begin, and the background's end, by size
LIGHT, CHROMA = 8, 32  # steps of a histogram
LIKELIER = 2.0  # logarithm: a colour is the background's when it is 7 times as common there as in the core


def foreign(crop: Pixels, mask: Pixels, real: Area, contrast: float) -> float:
    """The share of a mask that its largest foreign patch has: coloured as what is around the subject and not as its
    middle, and in chroma ``contrast`` (of 0 to 255) from the mask beside it.

    ``real`` tells where the crop lies in the frame: beyond, there is nothing around.
    """
    lab, area, real = _small(crop, mask, real)
    size = float(area.sum()) ** 0.5
    # What the frame cuts goes on: no rim is there.
    depth = cv2().distanceTransform(np.pad(area.astype(np.uint8), 1, mode="edge"), cv2().DIST_L2, 5)[1:-1, 1:-1]
    away = cv2().distanceTransform((~area).astype(np.uint8), cv2().DIST_L2, 5)
    own = _colours(lab, depth > CORE * size)
    theirs = _colours(lab, (away > RIM) & (away < AROUND * size) & real)
    odds = np.log(_looked_up(theirs, lab) + 1e-5) - np.log(_looked_up(own, lab) + 1e-5)
    found = opened(area & (depth > RIM) & (odds > LIKELIER), 1)
    return max((share for share, chroma in _patches(lab, area, found) if chroma >= contrast), default=0.0)


def _small(crop: Pixels, mask: Pixels, real: Area) -> tuple[Pixels, Area, Area]:
    """Lab, mask and what lies wholly in the frame, at ``SIDE`` pixels."""
    factor = SIDE / max(mask.shape)
    way = cv2().INTER_AREA if factor < 1 else cv2().INTER_LINEAR
    picture = cv2().resize(crop, None, fx=factor, fy=factor, interpolation=way)
    size = (picture.shape[1], picture.shape[0])
    area = cv2().resize(mask, size, interpolation=cv2().INTER_AREA) >= 128
    whole = cv2().resize(real.astype(np.uint8) * 255, size, interpolation=cv2().INTER_AREA) == 255
    return cv2().cvtColor(picture, cv2().COLOR_RGB2LAB), area, whole


def _colours(lab: Pixels, where: Area) -> NDArray[np.float32]:
    """A histogram that adds to 1, smooth in light too."""
    table = lab_histogram(lab, where, LIGHT, CHROMA)
    table = cv2().GaussianBlur(table.reshape(LIGHT, -1), (1, 3), 0.7).reshape(table.shape)
    return table / max(float(table.sum()), 1e-6)


def _looked_up(table: NDArray[np.float32], lab: Pixels) -> NDArray[np.float32]:
    light, *chroma = (lab[..., n].astype(int) for n in range(3))
    steps = (np.clip((value - 64) * CHROMA // 128, 0, CHROMA - 1) for value in chroma)
    return table[(light * LIGHT // 256, *steps)]


def _patches(lab: Pixels, area: Area, found: Area) -> list[tuple[float, float]]:
    """Of each patch the share of the mask, and how far its mean chroma is from that of the mask beside it."""
    count, labels, _, _ = cv2().connectedComponentsWithStats(found.astype(np.uint8), connectivity=8)
    elsewhere = area & ~dilated(found, 1)
    told: list[tuple[float, float]] = []
    for number in range(1, count):
        patch = labels == number
        beside = dilated(patch, 4) & elsewhere
        if beside.sum() >= 5:
            step = lab[patch][:, 1:].mean(axis=0) - lab[beside][:, 1:].mean(axis=0)
            told.append((float(patch.sum()) / float(area.sum()), float(np.hypot(*step))))
    return told
