"""Clean backgrounds: what lies behind the subjects of a clip, and proof that none of them is left in it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from . import footage
from .boxes import Box, area, grown, scaled, whole
from .clip import Clip, Drop
from .masks import largest, sharpness
from .models.kinds import Detector, Found, Inpainter, Pixels, Segmenter
from .stage import Place, Resources

UNSEEN = "plate_unseen"  # the metric that tells of a verified plate: the share that had to be filled


@dataclass(frozen=True)
class PlatesConfig:
    """When a background is clean. A plate with a ghost teaches the ghost."""

    fps: float = 2.0
    found: float = 0.20  # what is found above this score is kept out of the plate
    margin: float = 0.12  # boxes are larger by this share of their sides
    views: int = 3  # frames in which a pixel is free, at least; fewer: it was never seen
    unseen: float = 0.02  # share that may be filled
    left: float = 0.30  # score from which something found in the plate refuses it
    salient: float = 0.03  # share of the picture of what surely stands out in it
    sharp: float = 0.5  # of the frames' own sharpness: a moving camera smears
    window: int = 400  # shorter side of a free part of a frame, in 720 rows


class Plates:
    """The median of what is behind the subjects' boxes; of a moving camera, a free part of one frame."""

    name: ClassVar[str] = "plates"
    version: ClassVar[str] = "1"

    def __init__(
        self,
        config: PlatesConfig,
        detector: Callable[[], Detector],
        segmenter: Callable[[], Segmenter],
        inpainter: Callable[[], Inpainter],
        resources: Resources | None = None,
    ) -> None:
        self.config = config
        self.resources = resources or Resources(gibibytes=2.0)
        self._make_detector, self._make_segmenter, self._make_inpainter = detector, segmenter, inpainter

    @cached_property
    def _detector(self) -> Detector:
        return self._make_detector()

    @cached_property
    def _segmenter(self) -> Segmenter:
        return self._make_segmenter()

    @cached_property
    def _inpainter(self) -> Inpainter:
        return self._make_inpainter()

    def one(self, clip: Clip, place: Place) -> Sequence[Clip]:
        times, pictures = footage.frames(clip, place, self.config.fps)
        if not pictures:
            return [clip]
        factor = pictures[0].shape[0] / clip.height if clip.height else 1.0
        boxes = [self._boxes(clip, time, picture, factor) for time, picture in zip(times, pictures, strict=True)]
        made = self._median(pictures, boxes)
        if not isinstance(made, Drop):
            footage.write_picture(made[0], place.out / plate_path(clip))
            return [clip.measured(plate_unseen=made[1])]
        clip = replace(clip, refused=(*clip.refused, made))
        for number in (len(pictures) // 2, 0, len(pictures) - 1):
            free = self._window(pictures[number], boxes[number])
            if free is not None:
                footage.write_picture(free, place.out / window_path(clip))
                return [clip.measured(plate_window=free[..., 0].size / pictures[0][..., 0].size)]
        return [clip]

    def _boxes(self, clip: Clip, time: float, picture: Pixels, factor: float) -> list[Box]:
        """Of all that is found in a frame, and of the tracks at that time."""
        found = [item.box for item in self._detector.find(picture) if item.score >= self.config.found]
        near = 0.6 / self.config.fps
        tracked = [s.box for track in clip.tracks for s in track.sights if abs(s.time - time) <= near]
        boxes = found + [scaled(box, factor) for box in tracked]
        return [grown(box, self.config.margin, *picture.shape[:2]) for box in boxes]

    def _median(self, pictures: Sequence[Pixels], boxes: Sequence[Sequence[Box]]) -> tuple[Pixels, float] | Drop:
        """The plate and the share that was filled; or why there is none."""
        plate, seen = median_plate(pictures, boxes, self.config.views)
        unseen = 1.0 - float(seen.mean())
        if unseen > self.config.unseen:
            return Drop(self.name, "never seen", unseen, self.config.unseen)
        typical = float(np.median([sharpness(picture) for picture in pictures]))
        clear = sharpness(plate) / max(typical, 1e-6)
        if clear < self.config.sharp:
            return Drop(self.name, "smeared", clear, self.config.sharp)
        if unseen:
            plate = self._inpainter.fill(plate, np.where(seen, 0, 255).astype(np.uint8))
        return self._ghost(plate) or (plate, unseen)

    def _ghost(self, plate: Pixels) -> Drop | None:
        """What is still in a plate."""
        found: list[Found] = self._detector.find(plate)
        best = max(found, key=lambda item: item.score, default=None)
        if best is not None and best.score >= self.config.left:
            return Drop(self.name, "subject left", best.score, self.config.left, best.label)
        height, width = plate.shape[:2]
        raw = self._segmenter.mask(plate, (0.0, 0.0, float(width), float(height)))
        region, share = largest(raw >= 200)
        stands_out = float(region.mean()) * share
        sure = float(region.sum()) / max(float((raw > 40).sum()), 1.0)
        if stands_out > self.config.salient and sure > 0.8:
            return Drop(self.name, "something stands out", stands_out, self.config.salient)
        return None

    def _window(self, picture: Pixels, boxes: Sequence[Box]) -> Pixels | None:
        """The largest strip of a frame beside all boxes, when it is clean."""
        height, width = picture.shape[:2]
        if boxes:
            left, top = min(box[0] for box in boxes), min(box[1] for box in boxes)
            right, bottom = max(box[2] for box in boxes), max(box[3] for box in boxes)
            strips = ((0, 0, left, height), (right, 0, width, height), (0, 0, width, top), (0, bottom, width, height))
        else:
            strips = ((0, 0, width, height),)
        best = max(strips, key=area)
        if min(best[2] - best[0], best[3] - best[1]) < self.config.window * height / 720:
            return None
        x0, y0, x1, y1 = whole(best)
        part = np.ascontiguousarray(picture[y0:y1, x0:x1])
        return None if self._ghost(part) else part


def median_plate(
    pictures: Sequence[Pixels], boxes: Sequence[Sequence[Box]], views: int
) -> tuple[Pixels, NDArray[np.bool_]]:
    """The median of every pixel over the frames in which no box covers it, and where there were enough of them."""
    shape = pictures[0].shape[:2]
    free = np.ones((len(pictures), *shape), dtype=np.bool_)
    for number, covered in enumerate(boxes):
        for box in covered:
            left, top, right, bottom = whole(box)
            free[number, max(top, 0) : bottom, max(left, 0) : right] = False
    plate = np.zeros((*shape, 3), np.uint8)
    for row in range(0, shape[0], 64):  # in bands: a film of large frames would not fit into memory as floats
        band = np.stack([picture[row : row + 64] for picture in pictures]).astype(np.float32)
        band[~free[:, row : row + 64]] = np.nan
        known = free[:, row : row + 64].any(axis=0)
        middle = np.zeros((*known.shape, 3), np.float32)
        middle[known] = np.nanmedian(band[:, known], axis=0)
        plate[row : row + 64] = np.rint(middle).astype(np.uint8)
    return plate, free.sum(axis=0) >= min(views, len(pictures))


def plate_path(clip: Clip) -> str:
    return f"clips/{clip.id}/plate.png"


def window_path(clip: Clip) -> str:
    return f"clips/{clip.id}/plate-window.png"


def backgrounds(clip: Clip) -> str:
    """The path of a clip's clean background, if it has one."""
    if UNSEEN in clip.metrics:
        return plate_path(clip)
    return window_path(clip) if "plate_window" in clip.metrics else ""
