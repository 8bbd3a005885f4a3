"""Dense optical flow between the frames of a clip: where a box goes, and what moves by itself."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .boxes import clipped, grown, moved, scaled, whole
from .clip import Box
from .masks import cv2
from .models.kinds import Pixels

WIDTH = 448  # pixels at which flow is computed


class Flow:
    """DIS flow between neighbouring frames, computed when it is asked for."""

    def __init__(self, pictures: Sequence[Pixels]) -> None:
        self.factor = WIDTH / pictures[0].shape[1]
        self.shape = pictures[0].shape[:2]
        self._small = [_grey(picture, self.factor) for picture in pictures]
        self._fields: dict[int, NDArray[np.float32]] = {}

    def field(self, frame: int) -> NDArray[np.float32]:
        """From ``frame`` to the next, in pixels of the small pictures: [H W 2]."""
        if frame not in self._fields:
            dis = cv2().DISOpticalFlow_create(cv2().DISOPTICAL_FLOW_PRESET_FAST)
            self._fields[frame] = dis.calc(self._small[frame], self._small[frame + 1], None)
        return self._fields[frame]

    def move(self, frame: int, box: Box) -> Box:
        """A box carried to the next frame by the median flow inside it."""
        left, top, right, bottom = whole(scaled(box, self.factor))
        part = self.field(frame)[max(top, 0) : bottom, max(left, 0) : right].reshape(-1, 2)
        if not len(part):
            return box
        right_by, down_by = np.median(part, axis=0) / self.factor
        return clipped(moved(box, float(right_by), float(down_by)), *self.shape)

    def alone(self, frame: int, box: Box) -> float:
        """How far a box's middle moves against what is around it, in shares of its diagonal."""
        if frame + 1 >= len(self._small):
            return 0.0
        flow = self.field(frame)
        inner = np.zeros(flow.shape[:2], np.bool_)
        ring = np.zeros_like(inner)
        left, top, right, bottom = whole(scaled(grown(box, 0.3, *self.shape), self.factor))
        ring[top:bottom, left:right] = True
        left, top, right, bottom = whole(scaled(box, self.factor))
        ring[max(top, 0) : bottom, max(left, 0) : right] = False
        left, top, right, bottom = whole(scaled(grown(box, -0.2, *self.shape), self.factor))
        inner[max(top, 0) : bottom, max(left, 0) : right] = True
        if not inner.any() or not ring.any():
            return 0.0
        step = np.median(flow[inner], axis=0) - np.median(flow[ring], axis=0)
        change = float(np.abs(flow[inner] - np.median(flow[inner], axis=0)).mean())
        return (float(np.hypot(*step)) + change) / max(float(np.hypot(right - left, bottom - top)) / 0.6, 1.0)


def _grey(picture: Pixels, factor: float) -> Pixels:
    small = cv2().resize(picture, None, fx=factor, fy=factor, interpolation=cv2().INTER_AREA)
    return cv2().cvtColor(small, cv2().COLOR_RGB2GRAY)
