"""The pictures of a track that may stand for it: sharp, large, whole, and unlike one another."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from training.data.record import Picture

from . import footage
from .boxes import area
from .clip import Clip, Drop, Sight, Track
from .cutting import crop_of, in_frame, on_white
from .foreign import foreign
from .masks import Area, bitten, cv2, sharpness
from .models.kinds import Pixels
from .naming import is_person
from .pose import pose_difference
from .stage import Place, Resources


@dataclass(frozen=True)
class ReferencesConfig:
    """What a reference picture needs. The thresholds of sizes are those of the published pipelines."""

    sharp: float = 40.0  # variance of the Laplacian inside the mask, the longer side at 256 pixels
    smallest: float = 0.04  # of the picture, for the box
    greatest: float = 0.90
    side: int = 128  # pixels of the shorter side in a picture of 720 rows
    mask: float = 1 / 32  # of the picture
    light: float = 25.0  # mean luma inside the mask
    contrast: float = 8.0  # standard deviation of luma inside the mask
    face: float = 0.65  # score of a person's face
    away: float = 1.0  # seconds between two pictures of a track
    pose: float = 0.22  # difference between them
    pictures: int = 3  # of one track
    stable: float = 0.97  # of the mask: a track is followed by worse ones than it is shown by
    agrees: float = 0.88  # the same of its box and the detector's
    edge: float = 2.0  # and of the gradient on its outline
    crowded: float = 0.02  # share of the mask inside another thing's box
    part: float = 0.25  # and inside that of a smaller thing within the subject's own box
    lost: float = 0.0035  # share of the mask of a whole part that only one of two looks has: an ear, a foot
    filled: float = 0.001  # and of the holes that were filled: grass in the bend of an arm
    foreign: float = 0.0004  # and of a patch in the colours around it,
    foreign_chroma: float = 12.0  # which differ from the mask's beside it by this much, of 0 to 255
    bitten: float = 0.004  # and of a narrow notch: something stands before the subject
    several: float = 0.15  # share of its box that the smaller of two things has which stand side by side in it


@dataclass(frozen=True)
class Candidate:
    """A sight as a picture: the crop, its mask, and how good it is."""

    sight: Sight
    crop: Pixels
    mask: Pixels
    worth: float


class References:
    """Choose, cut and write the pictures of every track; a track without any is refused, a clip without, dropped."""

    name: ClassVar[str] = "references"
    version: ClassVar[str] = "4"

    def __init__(self, config: ReferencesConfig, resources: Resources | None = None) -> None:
        self.config = config
        self.resources = resources or Resources()

    def one(self, clip: Clip, place: Place) -> Sequence[Clip]:
        pictures: list[Picture] = []
        refused: list[Drop] = []
        tracks: list[Track] = []
        for track in clip.tracks:
            chosen, faults = self._choose(clip, track, place)
            pictures += [_write(clip, track, candidate, n, place) for n, candidate in enumerate(chosen)]
            refused += faults
            worst = faults[-1] if faults else Drop(self.name, "no masked sight", detail=track.id)
            tracks.append(track if chosen else replace(track, dropped=worst))
        clip = replace(clip, tracks=tuple(tracks), references=tuple(pictures), refused=(*clip.refused, *refused))
        if pictures:
            return [clip.measured(references=float(len(pictures)))]
        return [clip.leave(self.name, "no reference", 0, 1, "; ".join(sorted({drop.reason for drop in refused})))]

    def _choose(self, clip: Clip, track: Track, place: Place) -> tuple[list[Candidate], list[Drop]]:
        """The best sight, then others far from it in time and pose."""
        fit: list[Candidate] = []
        faults: list[Drop] = []
        for sight in track.sights:
            if sight.mask:
                made = self._candidate(clip, track, sight, place)
                (faults if isinstance(made, Drop) else fit).append(made)  # pyright: ignore[reportArgumentType]
        chosen: list[Candidate] = []
        for candidate in sorted(fit, key=lambda candidate: -candidate.worth):
            if len(chosen) < self.config.pictures and all(self._apart(candidate, other) for other in chosen):
                chosen.append(candidate)
        return chosen, faults

    def _apart(self, one: Candidate, other: Candidate) -> bool:
        if abs(one.sight.time - other.sight.time) <= self.config.away:
            return False
        return pose_difference((one.crop, one.mask), (other.crop, other.mask)) >= self.config.pose

    def _candidate(self, clip: Clip, track: Track, sight: Sight, place: Place) -> Candidate | Drop:
        read = read_sight(clip, track, sight, place)
        fault = self._fault(clip, track, sight, read)
        if fault:
            return fault
        sharp = sharpness(read.crop, read.mask)
        worth = min(sharp / 200, 1.5) + 2 * read.share**0.5 + 2 * sight.scores.get("stable", 1.0)
        return Candidate(sight, read.crop, read.mask, worth + sight.scores.get("face", 0.0) + sight.score)

    def _fault(self, clip: Clip, track: Track, sight: Sight, read: "Read") -> Drop | None:
        """Why a sight is no reference: size, quality, or a person without a face."""
        config, rows, cut = self.config, clip.height or 720, (read.crop, read.mask)
        columns = clip.width or rows * 16 / 9
        luma = cv2().cvtColor(cut[0], cv2().COLOR_RGB2GRAY)[cut[1] >= 128].astype(np.float32)
        side = min(sight.box[2] - sight.box[0], sight.box[3] - sight.box[1]) * 720 / rows
        floors = (
            ("size", side, float(config.side)),
            ("small box", area(sight.box) / (rows * columns), config.smallest),
            ("small mask", read.share, config.mask),
            ("blur", sharpness(*cut), config.sharp),
            ("dark", float(luma.mean()), config.light),
            ("flat", float(luma.std()), config.contrast),
            ("unstable mask", sight.scores.get("stable", 1.0), config.stable),
            ("part lost", sight.scores.get("agrees", 1.0), config.agrees),
            ("faint outline", sight.scores.get("edge", config.edge), config.edge),
            ("no face", sight.scores.get("face", 0.0) if is_person(track.label) else 1.0, config.face),
        )
        for reason, value, limit in floors:
            if value < limit:
                return Drop(self.name, reason, value, limit, track.id)
        scored = ("crowded", "part", "several", "lost", "filled")
        ceilings: list[tuple[str, float, float]] = [
            ("large box", area(sight.box) / (rows * columns), config.greatest),
            ("bitten", bitten(cut[1] >= 128), config.bitten),
            ("foreign", foreign(*cut, read.real, config.foreign_chroma), config.foreign),
            *((name, sight.scores.get(name, 0.0), getattr(config, name)) for name in scored),
        ]
        for reason, value, limit in ceilings:
            if value > limit:
                return Drop(self.name, reason, value, limit, track.id)
        return None


@dataclass(frozen=True)
class Read:
    """A masked sight cut out of its frame, in which ``real`` lies; ``share`` of the frame is the mask."""

    crop: Pixels
    mask: Pixels
    real: Area
    share: float


def read_sight(clip: Clip, track: Track, sight: Sight, place: Place) -> Read:
    picture = footage.read_picture(place.out / footage.sight_picture(clip, track, sight))
    whole = footage.read_mask(place.out / sight.mask)
    return Read(*crop_of(picture, whole), in_frame(whole), float((whole >= 128).mean()))


def reference_path(clip: Clip, track: Track, sight: Sight) -> str:
    return f"references/{clip.id}/{track.id}-{round(sight.time * 1000):06d}.png"


def _write(clip: Clip, track: Track, candidate: Candidate, number: int, place: Place) -> Picture:
    path = reference_path(clip, track, candidate.sight)
    mask = footage.mask_path(path)
    footage.write_picture(on_white(candidate.crop, candidate.mask), place.out / path)
    footage.write_picture(candidate.mask, place.out / mask)
    kind = "other_time" if number else "masked"
    return Picture(path, track.id, track.label, mask=mask, kind=kind)
