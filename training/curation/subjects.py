"""The things of a clip as instances: found, followed, cut out and named, each refusal with its reason."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar

import numpy as np

from . import footage
from .boxes import area, is_part, overlap, scaled, single
from .clip import Box, Clip, Drop, Sight, Track
from .cutting import Cutter, Look, crop_of
from .flow import Flow
from .masks import MaskConfig, box_of, largest, sharpness
from .models.kinds import Detector, Embedder, FaceModel, Found, ImageText, Pixels, Segmenter
from .naming import NamingConfig, label_of, named_by_caption
from .pose import colours, same_colours
from .scene import Scene
from .stage import Place, Resources
from .tracking import Spot, TrackingConfig, join, link, meet, vote


@dataclass(frozen=True)
class SubjectsConfig:
    """What counts as a subject, and how many frames of it are cut out."""

    fps: float = 4.0
    rival: float = 0.25  # a detection of this score is not part of another subject's mask
    found: float = 0.35  # one of this score may be a subject
    track: float = 0.40  # mean score of a track
    still: float = 0.50  # below this mean score a track must move by itself,
    alive: float = 0.002  # by this share of its diagonal from sight to sight: a rock is no subject
    smallest: float = 0.04  # of the picture, for the box
    greatest: float = 0.90
    side: int = 128  # pixels of the box's shorter side in a picture of 720 rows
    masks: int = 5  # sights of a track that are cut out, spread over its time
    tries: int = 2  # frames tried for each
    salient: bool = True  # what stands out is the subject where the detector knows nothing
    salient_sure: float = 0.90  # share of sure pixels
    tracks: int = 5
    same_look: float = 0.60  # two tracks that never meet are two things below these likenesses
    same_colours: float = 0.50
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    naming: NamingConfig = field(default_factory=NamingConfig)


@dataclass(frozen=True)
class Instance:
    """A chain with its clean sights."""

    spots: tuple[Spot, ...]
    looks: tuple[Look, ...]


class Subjects:
    """Detect, ground by the caption's words, track, segment, check the class. A clip without a subject is dropped."""

    name: ClassVar[str] = "subjects"
    version: ClassVar[str] = "3"

    def __init__(
        self,
        config: SubjectsConfig,
        detector: Callable[[], Detector],
        segmenter: Callable[[], Segmenter],
        embedder: Callable[[], Embedder],
        faces: Callable[[], FaceModel] | None = None,
        image_text: Callable[[], ImageText] | None = None,
        resources: Resources | None = None,
    ) -> None:
        self.config = config
        self.resources = resources or Resources(gibibytes=2.0)
        self._make_detector, self._make_segmenter, self._make_embedder = detector, segmenter, embedder
        self._make_faces, self._make_image_text = faces, image_text

    @cached_property
    def _detector(self) -> Detector:
        return self._make_detector()

    @cached_property
    def _segmenter(self) -> Segmenter:
        return self._make_segmenter()

    @cached_property
    def _embedder(self) -> Embedder:
        return self._make_embedder()

    @cached_property
    def _faces(self) -> FaceModel | None:
        return self._make_faces() if self._make_faces else None

    @cached_property
    def _image_text(self) -> ImageText | None:
        return self._make_image_text() if self._make_image_text else None

    def one(self, clip: Clip, place: Place) -> Sequence[Clip]:
        times, pictures = footage.frames(clip, place, self.config.fps)
        if not pictures:
            return [clip.leave(self.name, "no frames")]
        words = clip.words if named_by_caption(clip) else ()
        found = [self._detector.find(picture, words) for picture in pictures]
        instances, refused = self._look(times, pictures, found)
        if not instances and self.config.salient and self._unknown(found, pictures[0]):
            found = [self._salient(picture) if n % 2 == 0 else [] for n, picture in enumerate(pictures)]
            instances, more = self._look(times, pictures, found)
            refused = [*refused, *more]
        tracks = [self._track(clip, place, n, item, times, pictures) for n, item in enumerate(instances, start=1)]
        clip = replace(clip, tracks=tuple(tracks), refused=(*clip.refused, *refused))
        if tracks:
            return [clip.measured(subjects=float(len(tracks)))]
        return [clip.leave(self.name, "no subject", 0, 1, "; ".join(sorted({drop.reason for drop in refused})))]

    def _look(
        self, times: Sequence[float], pictures: Sequence[Pixels], found: Sequence[Sequence[Found]]
    ) -> tuple[list[Instance], list[Drop]]:
        """What was found, as things with clean masks that are surely different from one another."""
        scene, refused = self._follow(times, pictures, found)
        cutter = Cutter(self._segmenter, self._embedder, self._faces, self.config.mask)
        instances: list[Instance] = []
        for spots in scene.chains:
            looks, faults = self._looks(spots, scene, cutter)
            label = vote(spots)[0]
            if not looks:
                common = max(faults, key=lambda fault: sum(other.reason == fault.reason for other in faults))
                refused.append(replace(common, detail=label))
                continue
            made = Instance(spots, tuple(looks))
            twin = max((self._twin(made, other, pictures) for other in instances), default=0.0)
            if twin:
                refused.append(Drop(self.name, "maybe the same", twin, self.config.same_look, label))
            else:
                instances.append(made)
        return instances, refused

    def _follow(
        self, times: Sequence[float], pictures: Sequence[Pixels], found: Sequence[Sequence[Found]]
    ) -> tuple[Scene, list[Drop]]:
        """Detections as chains; short, unsure, small and ambiguous ones are refused."""
        config = self.config
        spots = [
            [self._spot(number, item, picture) for item in single([f for f in items if f.score >= config.rival])]
            for number, (items, picture) in enumerate(zip(found, pictures, strict=True))
        ]
        sure = [_wholes([spot for spot in frame if spot.score >= config.found]) for frame in spots]
        flow = Flow(pictures)
        joined, doubtful = join(link(sure, flow.move, config.tracking), config.tracking)
        limit = config.tracking.joined
        refused = [Drop(self.name, "ambiguous track", alike, limit, vote(chain)[0]) for chain, alike in doubtful]
        kept: list[tuple[Spot, ...]] = []
        for chain in joined:
            drop = self._unfit(chain, pictures[0], flow)
            if drop:
                refused.append(drop)
            else:
                kept.append(chain)
        kept.sort(key=_weight, reverse=True)
        long = [chain for chain in joined if len(chain) >= config.tracking.sights]
        return Scene(times, pictures, spots, kept[: config.tracks], long), refused

    def _spot(self, number: int, item: Found, picture: Pixels) -> Spot:
        """With its look, where it may become a subject: only those are followed."""
        if item.score < self.config.found:
            return Spot(number, item.box, item.score, item.label, np.zeros(1, np.float32))
        left, top, right, bottom = (max(int(value), 0) for value in item.box)
        part = picture[top : max(bottom, top + 2), left : max(right, left + 2)]
        return Spot(number, item.box, item.score, item.label, self._embedder.embed(part))

    def _unknown(self, found: Sequence[Sequence[Found]], picture: Pixels) -> bool:
        """Whether the detector knows hardly anything here. What it knows but cannot part is not to be taken whole."""
        sure = [[f for f in items if f.score >= self.config.found and self._sized(f.box, picture)] for items in found]
        return sum(bool(items) for items in sure) < 0.25 * len(found)

    def _salient(self, picture: Pixels) -> list[Found]:
        """What stands out of the whole picture, when it is one thing and surely so."""
        height, width = picture.shape[:2]
        raw = self._segmenter.mask(picture, (0.0, 0.0, float(width), float(height)))
        region, share = largest(raw >= 128)
        sure = 1.0 - float(((raw > 40) & (raw < 215)).sum()) / max(float(region.sum()), 1.0)
        if share < self.config.mask.largest or sure < self.config.salient_sure:
            return []
        return [Found("", box_of(np.where(region, 255, 0).astype(np.uint8)), sure)]

    def _unfit(self, spots: Sequence[Spot], picture: Pixels, flow: Flow) -> Drop | None:
        """Why a chain of spots is no subject."""
        config, label = self.config, vote(spots)[0]
        if len(spots) < config.tracking.sights:
            return Drop(self.name, "short track", len(spots), config.tracking.sights, label)
        score = float(np.mean([spot.score for spot in spots]))
        if score < config.track:
            return Drop(self.name, "unsure track", score, config.track, label)
        alive = float(np.median([flow.alone(spot.frame, spot.box) for spot in spots]))
        if score < config.still and alive < config.alive:
            return Drop(self.name, "still scenery", alive, config.alive, label)
        if not any(self._sized(spot.box, picture) for spot in spots):
            side = max(min(spot.box[2] - spot.box[0], spot.box[3] - spot.box[1]) for spot in spots)
            return Drop(self.name, "size", side, config.side * picture.shape[0] / 720, label)
        return None

    def _sized(self, box: Box, picture: Pixels) -> bool:
        """Neither too small nor the whole picture."""
        height, width = picture.shape[:2]
        share = area(box) / (height * width)
        shorter = min(box[2] - box[0], box[3] - box[1])
        config = self.config
        return config.smallest <= share <= config.greatest and shorter >= config.side * height / 720

    def _looks(self, spots: Sequence[Spot], scene: Scene, cutter: Cutter) -> tuple[list[Look], list[Drop]]:
        """The sharpest clean sight of each stretch of time, and what the others suffered from."""
        looks: list[Look] = []
        faults: list[Drop] = []
        fit = [spot for spot in spots if self._sized(spot.box, scene.pictures[spot.frame])]
        for part in np.array_split(np.arange(len(fit)), min(self.config.masks, len(fit))):
            stretch = sorted((fit[n] for n in part), key=lambda spot: -_sharp(spot, scene.pictures[spot.frame]))
            for spot in stretch[: self.config.tries]:
                made = cutter.cut(scene.pictures[spot.frame], spot, scene.rivals(spot))
                if isinstance(made, Look):
                    looks.append(replace(made, scores={**made.scores, **scene.crowding(spot, made.mask)}))
                    break
                faults.append(made)
        return sorted(looks, key=lambda look: look.spot.frame), faults

    def _twin(self, one: Instance, other: Instance, pictures: Sequence[Pixels]) -> float:
        """How alike two instances are that may be one thing; 0 when they are surely two."""
        if meet(one.spots, other.spots):
            boxes = {spot.frame: spot.box for spot in other.spots}
            return float(np.mean([overlap(s.box, boxes[s.frame]) for s in one.spots if s.frame in boxes]) > 0.5)
        look = max(float(mine.vector @ yours.vector) for mine in one.looks for yours in other.looks)
        first, second = ([colours(*crop_of(pictures[k.spot.frame], k.mask)) for k in i.looks] for i in (one, other))
        colour = max(same_colours(mine, yours) for mine in first for yours in second)
        return max(look, colour) if look >= self.config.same_look or colour >= self.config.same_colours else 0.0

    def _track(
        self,
        clip: Clip,
        place: Place,
        number: int,
        item: Instance,
        times: Sequence[float],
        pictures: Sequence[Pixels],
    ) -> Track:
        """An instance as values and files."""
        label, source = label_of(clip, item.spots, item.looks, self.config.naming, self._image_text)
        name = f"t{number}"
        track = Track(name, label, source, (), f"clips/{clip.id}/{name}.npz", any(look.face for look in item.looks))
        factor = clip.height / pictures[0].shape[0] if clip.height else 1.0
        cut = {look.spot.frame: look for look in item.looks}
        sights: list[Sight] = []
        for spot in item.spots:
            sight = Sight(times[spot.frame], scaled(spot.box, factor), spot.score)
            if spot.frame in cut:
                sight = footage.write_sight(clip, track, sight, pictures[spot.frame], cut[spot.frame], place)
            sights.append(sight)
        footage.write_looks(place.out / track.features, [(times[look.spot.frame], look) for look in item.looks])
        return replace(track, sights=tuple(sights))


def _wholes(spots: Sequence[Spot]) -> list[Spot]:
    """Without the parts: what lies in a surer thing of the same label."""
    return [
        spot
        for spot in spots
        if not any(o.score > spot.score and o.label == spot.label and is_part(spot.box, o.box) for o in spots)
    ]


def _weight(spots: Sequence[Spot]) -> float:
    """Long, large and sure tracks come first."""
    return sum(spot.score * area(spot.box) ** 0.5 for spot in spots)


def _sharp(spot: Spot, picture: Pixels) -> float:
    left, top, right, bottom = (max(int(value), 0) for value in spot.box)
    return sharpness(picture[top : bottom + 2, left : right + 2])
