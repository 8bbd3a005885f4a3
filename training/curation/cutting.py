"""One sight of a subject cut out of its frame: masked, checked against a second look, and described by vectors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .boxes import area, grown, shared, whole
from .clip import Box, Drop
from .masks import STAGE, Area, MaskConfig, Rival, box_of, clean, lost_part, overlap_of, sharpness, tidy
from .models.kinds import Embedder, Face, FaceModel, Pixels, Segmenter, Vector
from .tracking import Spot

MARGIN = 0.06


@dataclass(frozen=True)
class Look:
    """A clean sight: its mask in the frame, the crop on white, and what models say of it."""

    spot: Spot
    mask: Pixels
    white: Pixels
    vector: Vector
    scores: Mapping[str, float]
    face: Face | None


class Cutter:
    """Cuts sights out of the frames of one clip; a box of a frame is segmented once."""

    def __init__(self, segmenter: Segmenter, embedder: Embedder, faces: FaceModel | None, config: MaskConfig) -> None:
        self.segmenter, self.embedder, self.faces, self.config = segmenter, embedder, faces, config
        self._masks: dict[tuple[int, Box], Pixels] = {}

    def cut(self, picture: Pixels, spot: Spot, rivals: Sequence[Spot]) -> Look | Drop:
        """The subject of ``spot``, or the reason why its mask is not to be trusted."""
        raw = self._mask(picture, spot)
        alone = clean(picture, raw, spot.box, spot.score, (), self.config)
        if alone.fault:  # rivals cost a mask each, and would not mend it
            return alone.fault
        again = self._again(picture, spot)
        stable = overlap_of(alone.mask, again)
        if stable < self.config.stable:
            return Drop(STAGE, "mask stable", stable, self.config.stable)
        near = [self._rival(picture, spot, rival) for rival in rivals]
        made = clean(picture, raw, spot.box, spot.score, near, self.config)
        if made.fault:
            return made.fault
        crop, mask = crop_of(picture, made.mask)
        found = faces_on(self.faces.faces(crop), mask) if self.faces else []
        if len(found) > 1 and _side(found[1]) > 0.5 * _side(found[0]):
            return Drop(STAGE, "two faces", _side(found[1]) / _side(found[0]), 0.5)
        face = found[0] if found else None
        seen = {"stable": stable, "lost": lost_part(alone.mask, again)}
        scores = {**made.scores, **seen, "sharp": sharpness(crop, mask), "face": face.score if face else 0.0}
        return Look(spot, made.mask, on_white(crop, mask), self.embedder.embed(crop, mask), scores, face)

    def _rival(self, picture: Pixels, spot: Spot, rival: Spot) -> Rival:
        """Masked where it may share pixels; elsewhere its box is enough."""
        near = shared(grown(spot.box, MARGIN, *picture.shape[:2]), rival.box) > 0.02 * area(spot.box)
        return Rival(rival.box, rival.score, self._mask(picture, rival) if near else None)

    def _mask(self, picture: Pixels, spot: Spot) -> Pixels:
        key = (spot.frame, spot.box)
        if key not in self._masks:
            self._masks[key] = self.segmenter.mask(picture, spot.box)
        return self._masks[key]

    def _again(self, picture: Pixels, spot: Spot) -> Pixels:
        """The mask of a larger box in the mirrored picture: a segmenter that sees the subject gives the same one."""
        width = picture.shape[1]
        left, top, right, bottom = grown(spot.box, self.config.push, *picture.shape[:2])
        raw = self.segmenter.mask(np.ascontiguousarray(picture[:, ::-1]), (width - right, top, width - left, bottom))
        return tidy(np.ascontiguousarray(raw[:, ::-1]), spot.box, self.config)


def crop_of(picture: Pixels, mask: Pixels, margin: float = MARGIN) -> tuple[Pixels, Pixels]:
    """Picture and mask around the mask, with ``margin`` of its sides; white or empty beyond the frame."""
    shape, inner, there = _window(mask, margin)
    crop, part = np.full((*shape, 3), 255, np.uint8), np.zeros(shape, np.uint8)
    crop[inner], part[inner] = picture[there], mask[there]
    return crop, part


def in_frame(mask: Pixels, margin: float = MARGIN) -> Area:
    """Where the crop of this mask shows the frame. By its white it could not be told: studios are white too."""
    shape, inner, _ = _window(mask, margin)
    real = np.zeros(shape, np.bool_)
    real[inner] = True
    return real


def _window(mask: Pixels, margin: float) -> tuple[tuple[int, int], tuple[slice, slice], tuple[slice, slice]]:
    """The shape of a crop, the part of it that lies in the frame, and where in the frame that is."""
    left, top, right, bottom = whole(box_of(mask))
    pad = max(2, round(margin * max(right - left, bottom - top)))
    height, width = mask.shape
    y0, y1, x0, x1 = max(top - pad, 0), min(bottom + pad, height), max(left - pad, 0), min(right + pad, width)
    inner = (slice(y0 - top + pad, y1 - top + pad), slice(x0 - left + pad, x1 - left + pad))
    shape = (bottom - top + 2 * pad, right - left + 2 * pad)
    return shape, inner, (slice(y0, y1), slice(x0, x1))


def on_white(crop: Pixels, mask: Pixels) -> Pixels:
    """White where the mask is not; half-sure pixels are mixed."""
    alpha = (mask.astype(np.float32) / 255)[..., None]
    return np.rint(crop * alpha + 255 * (1 - alpha)).astype(np.uint8)


def faces_on(faces: Sequence[Face], mask: Pixels) -> list[Face]:
    """Those whose middle lies on the subject, the largest first."""

    def on_subject(face: Face) -> bool:
        column, row = int((face.box[0] + face.box[2]) / 2), int((face.box[1] + face.box[3]) / 2)
        return 0 <= row < mask.shape[0] and 0 <= column < mask.shape[1] and mask[row, column] >= 128

    return sorted((face for face in faces if on_subject(face)), key=_side, reverse=True)


def _side(face: Face) -> float:
    return area(face.box) ** 0.5
