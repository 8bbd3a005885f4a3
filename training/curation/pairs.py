"""The references that a clip is trained with: of its own at another time, of other clips, and made ones, all gated."""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np

from training.data.record import Picture

from . import footage, pairs_file
from .clip import Clip, Drop, Track
from .identity import IdentityConfig, matches
from .members import Cut, Member, difference, read_member
from .models.kinds import Embedder, FaceModel, Inpainter, Pixels
from .pairs_file import Pairing
from .plates import UNSEEN, backgrounds, plate_path
from .pose import pose_difference, same_colours
from .references import reference_path
from .stage import Place, of_each
from .variants import ChangeConfig, SceneConfig, before, changed, leaning, restored, turned

Kind = Literal["masked", "other_time", "cross_clip", "new_background", "changed", "inpainted"]


@dataclass(frozen=True)
class Weights:
    """How often each kind is drawn, against the others of its subject."""

    masked: float = 1.0
    other_time: float = 1.0
    cross_clip: float = 1.0
    new_background: float = 4.0
    changed: float = 1.0
    inpainted: float = 1.0


@dataclass(frozen=True)
class PairsConfig:
    """What pairs need."""

    pose: float = 0.22  # difference from the clip's sights,
    unlike: float = 0.5  # that this share of them must have,
    cross_pose: float = 0.25  # the same for a picture of another clip,
    cross: float = 1.0  # which differs from all,
    same_place: float = 0.80  # and where its surroundings are this much alike,
    same_place_pose: float = 0.40  # by more: that bird flaps so in both clips
    made: float = 0.12  # difference of a made picture from all of the clip's sights
    away: float = 1.0  # seconds
    gate: float = 0.80  # cosine of a made picture with its source
    face: float = 0.5  # likeness of its face with the source's
    subjects: int = 3
    occluded: float = 0.01  # share of a mask that something before the subject took, at least, to be filled
    notch: float = 0.03  # and the share that may be filled: more would be invented
    per_kind: int = 2  # pictures of one kind for one subject
    background: bool = True
    weights: Weights = field(default_factory=Weights)
    identity: IdentityConfig = field(default_factory=IdentityConfig)
    change: ChangeConfig = field(default_factory=ChangeConfig)
    scene: SceneConfig = field(default_factory=SceneConfig)


class Pairs:
    """All kept clips at once: who is who, then the pictures of every clip."""

    name: ClassVar[str] = "pairs"
    version: ClassVar[str] = "3"

    def __init__(
        self,
        config: PairsConfig,
        embedder: Callable[[], Embedder],
        faces: Callable[[], FaceModel] | None = None,
        inpainter: Callable[[], Inpainter] | None = None,
    ) -> None:
        self.config = config
        self._make_embedder, self._make_faces, self._make_inpainter = embedder, faces, inpainter

    @cached_property
    def embedder(self) -> Embedder:
        return self._make_embedder()

    @cached_property
    def faces(self) -> FaceModel | None:
        return self._make_faces() if self._make_faces else None

    @cached_property
    def inpainter(self) -> Inpainter | None:
        return self._make_inpainter() if self._make_inpainter else None

    def all(self, clips: Sequence[Clip], place: Place) -> Sequence[Clip]:
        numbers = {clip.id: number for number, clip in enumerate(clips)}
        read, faulty = of_each(
            self.name, clips, lambda clip: [read_member(numbers[clip.id], clip, t, place) for t in _kept(clip)]
        )
        members = [member for _, own in read for member in own]
        crosses: dict[int, list[tuple[int, float]]] = {}
        for match in matches([member.known for member in members], self.config.identity, self.faces):
            crosses.setdefault(match.one, []).append((match.other, match.likeness))
            crosses.setdefault(match.other, []).append((match.one, match.likeness))

        def paired(clip: Clip) -> Clip:
            own = [row for row, member in enumerate(members) if member.clip == numbers[clip.id]]
            return self._clip(clip, own, members, crosses, clips, place)

        made, more = of_each(self.name, [clip for clip, _ in read], paired)
        return [*(clip for _, clip in made), *faulty, *more]

    def _clip(
        self,
        clip: Clip,
        own: Sequence[int],
        members: Sequence[Member],
        crosses: dict[int, list[tuple[int, float]]],
        clips: Sequence[Clip],
        place: Place,
    ) -> Clip:
        """The clip with its pictures; dropped when no subject has one."""
        work = Work(self, clip, place, [c for c in clips if c.id != clip.id and backgrounds(c)])
        best = sorted(own, key=lambda place: -len(members[place].cuts))[: self.config.subjects]
        for number in sorted(best):
            work.own(members[number])
            for other, alike in sorted(crosses.get(number, []), key=lambda item: -item[1]):
                work.cross(members[number], members[other], clips[members[other].clip], alike)
        if self.config.background and UNSEEN in clip.metrics and work.pictures:
            work.pictures.append(Picture(plate_path(clip), "background", role="background", kind="plate"))
        pairs_file.write(place.out / pairs_file.path(clip), work.pairings)
        clip = replace(clip, references=tuple(work.pictures), refused=(*clip.refused, *work.refused))
        return clip if work.pictures else clip.leave(self.name, "no pair", 0, 1)


class Work:
    """The pictures of one clip in the making."""

    def __init__(self, stage: Pairs, clip: Clip, place: Place, backdrops: Sequence[Clip]) -> None:
        self.config, self.embedder, self.faces = stage.config, stage.embedder, stage.faces
        self.inpainter = stage.inpainter
        self.clip, self.place, self.backdrops = clip, place, backdrops
        self.pictures: list[Picture] = []
        self.pairings: list[Pairing] = []
        self.refused: list[Drop] = []

    def own(self, member: Member) -> None:
        """Pictures of the clip itself: as they are where the pose is not the clip's, else changed; and new scenes."""
        for number, cut in enumerate(member.chosen[: self.config.per_kind]):
            away = [c for c in member.cuts if abs(c.sight.time - cut.sight.time) > self.config.away]
            unlike = [c for c in away if difference(c, cut) >= self.config.pose]
            path = reference_path(self.clip, member.track, cut.sight)
            if len(unlike) >= self.config.unlike * len(member.cuts):
                pose = min(difference(c, cut) for c in unlike)
                look = member.look(cut)
                alike = max(float(member.look(other) @ look) for other in unlike)
                self._add(member, "other_time" if number else "masked", path, mask_path(path), alike, pose)
            else:
                self._changed(member, cut, path)
            self._restored(member, cut, path)
            self._scene(member, cut, path)

    def cross(self, member: Member, other: Member, clip: Clip, alike: float) -> None:
        """The other clip's pictures of this subject that are in another pose and are no copy."""
        have = sum(p.kind == "cross_clip" and p.subject == member.track.id for p in self.pictures)
        for cut in other.chosen[: max(self.config.per_kind - have, 0)]:
            differences = [difference(c, cut) for c in member.cuts]
            share = float(np.mean([d >= self._apart(c, cut) for c, d in zip(member.cuts, differences, strict=True)]))
            path = reference_path(clip, other.track, cut.sight)
            if share < self.config.cross:
                self._refuse("cross_clip: same pose", share, self.config.cross, path)
                continue
            closest = float((member.known.looks @ other.look(cut)).max())
            if closest > self.config.identity.high:
                self._refuse("cross_clip: a copy", closest, self.config.identity.high, path)
                continue
            self._add(member, "cross_clip", path, mask_path(path), alike, min(differences), clip.id)

    def _apart(self, own: Cut, cut: Cut) -> float:
        """The difference in pose that a picture of another clip needs: more before the same background."""
        same = same_colours(own.surroundings, cut.surroundings) >= self.config.same_place
        return self.config.same_place_pose if same else self.config.cross_pose

    def _changed(self, member: Member, cut: Cut, source: str) -> None:
        made = changed(cut.crop, cut.mask, self.config.change, _chance(source, "changed"))
        self._keep(member, cut, "changed", made, source.replace(".png", "-changed.png"))

    def _restored(self, member: Member, cut: Cut, source: str) -> None:
        """Without what stood before the subject, where that is little."""
        if self.inpainter is None or cut.sight.scores.get("contested", 0.0) < self.config.occluded:
            return
        made = restored(cut.crop, cut.mask, self.inpainter, self.config.notch)
        if made is not None:
            made = changed(*made, self.config.change, _chance(source, "whole"))
            self._keep(member, cut, "inpainted", made, source.replace(".png", "-whole.png"))

    def _scene(self, member: Member, cut: Cut, source: str) -> None:
        """Before another clip's clean background, turned and lit otherwise as well."""
        if not self.backdrops:
            return
        chance = _chance(source, "scene")
        backdrop = self.backdrops[int(chance.integers(len(self.backdrops)))]
        plate = footage.read_picture(self.place.out / backgrounds(backdrop))
        grounded = cut.sight.scores.get("floor", 0.0) > 0.005
        warp = leaning if grounded else turned  # what the frame cut stays level: the lower border hides its cut
        part = changed(cut.crop, cut.mask, self.config.change, chance, warp)
        made = before(*part, plate, self.config.scene, chance, grounded)
        self._keep(member, cut, "new_background", made, source.replace(".png", "-scene.png"), backdrop.id)

    def _keep(
        self, member: Member, cut: Cut, kind: Kind, made: tuple[Pixels, Pixels], path: str, other: str = ""
    ) -> None:
        """Write a made picture that is the same subject, and in no pose of the clip."""
        pose = min(pose_difference(made, (own.crop, own.mask)) for own in member.cuts)
        if pose < self.config.made:
            self._refuse(f"{kind}: own pose", pose, self.config.made, path)
            return
        alike = self._gated(member, cut, made, path)
        if alike is None:
            return
        footage.write_picture(made[0], self.place.out / path)
        mask = None if kind == "new_background" else mask_path(path)
        if mask:
            footage.write_picture(made[1], self.place.out / mask)
        self._add(member, kind, path, mask, alike, pose, other)

    def _gated(self, member: Member, cut: Cut, made: tuple[Pixels, Pixels], path: str) -> float | None:
        """How alike a made picture is to its source; None, and a refusal, when it is someone else."""
        alike = float(self.embedder.embed(*made) @ self.embedder.embed(cut.crop, cut.mask))
        if alike < self.config.gate:
            return self._refuse("identity lost", alike, self.config.gate, path)
        if self.faces is None or not cut.sight.scores.get("face", 0.0):
            return alike
        found = self.faces.faces(made[0])
        near = max((self.faces.likeness(f.identity, mine) for f in found for mine in member.known.faces), default=0.0)
        return alike if near >= self.config.face else self._refuse("face lost", near, self.config.face, path)

    def _refuse(self, reason: str, value: float, limit: float, detail: str) -> None:
        self.refused.append(Drop(Pairs.name, reason, value, limit, detail))

    def _add(
        self, member: Member, kind: Kind, path: str, mask: str | None, alike: float, pose: float, other: str = ""
    ) -> None:
        weight = getattr(self.config.weights, kind)
        track = member.track
        self.pictures.append(Picture(path, track.id, track.label, mask=mask, weight=weight, kind=kind))
        self.pairings.append(Pairing(path, kind, track.id, alike, pose, other))


def mask_path(path: str) -> str:
    return f"{path.removesuffix('.png')}-mask.png"


def _kept(clip: Clip) -> list[Track]:
    return [track for track in clip.tracks if track.dropped is None]


def _chance(path: str, purpose: str) -> np.random.Generator:
    """The same picture is always changed in the same way."""
    return np.random.default_rng(zlib.crc32(f"{path} {purpose}".encode()))
