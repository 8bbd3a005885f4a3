"""The references that a clip is trained with: of its own at another time, of other clips, and made ones, all gated."""

import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

import numpy as np

from training.data.record import Picture

from . import footage, pairs_file
from .clip import Clip, Drop
from .identity import matches
from .members import Cut, Cuts, Member, difference, read_member
from .models.kinds import Embedder, FaceModel, Inpainter, Pixels
from .pairs_config import Kind, PairsConfig
from .pairs_file import Pairing
from .plates import UNSEEN, plate_path
from .pose import same_colours
from .scenes import Backdrops
from .stage import Place, of_each
from .variants import before, changed, leaning, restored, turned


class Pairs:
    """All kept clips at once: who is who, then the pictures of every clip."""

    name: ClassVar[str] = "pairs"
    version: ClassVar[str] = "4"

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
            self.name, clips, lambda clip: [read_member(numbers[clip.id], clip, t, place) for t in clip.kept_tracks]
        )
        members = [member for _, own in read for member in own]
        crosses: dict[int, list[tuple[int, float]]] = {}
        for match in matches([member.known for member in members], self.config.identity, self.faces):
            crosses.setdefault(match.one, []).append((match.other, match.likeness))
            crosses.setdefault(match.other, []).append((match.one, match.likeness))
        rows: dict[str, list[int]] = {}
        for row, member in enumerate(members):
            rows.setdefault(clips[member.clip].id, []).append(row)
        cuts = Cuts(members, clips, place)

        def others(row: int) -> Iterable[Other]:
            for other, alike in sorted(crosses.get(row, []), key=lambda item: -item[1]):
                yield Other(clips[members[other].clip], cuts.of(other), alike)

        def paired(clip: Clip) -> Clip:
            work = Work(self, clip, place, Backdrops(clip, clips, place, self.config.scene))
            best = sorted(rows.get(clip.id, []), key=lambda row: -len(members[row].known.looks))
            for row in sorted(best[: self.config.subjects]):
                work.subject(members[row], cuts.of(row), others(row))
            return work.done()

        made, more = of_each(self.name, [clip for clip, _ in read], paired)
        return [*(clip for _, clip in made), *faulty, *more]


@dataclass(frozen=True)
class Other:
    """What another clip shows of a subject, and how alike it is."""

    clip: Clip
    cuts: Sequence[Cut]
    alike: float


@dataclass(frozen=True)
class Source:
    """What a picture is made of: a cut of a clip, and its least difference in pose from the sights it must not copy."""

    cut: Cut
    clip: Clip
    pose: float


class Work:
    """The pictures of one clip in the making."""

    def __init__(self, stage: Pairs, clip: Clip, place: Place, backdrops: Backdrops) -> None:
        self.config, self.embedder, self.faces = stage.config, stage.embedder, stage.faces
        self.inpainter = stage.inpainter
        self.clip, self.place, self.backdrops = clip, place, backdrops
        self.pictures: list[Picture] = []
        self.pairings: list[Pairing] = []
        self.refused: list[Drop] = []

    def done(self) -> Clip:
        """The clip with its pictures; dropped when no subject has one."""
        if self.config.background and UNSEEN in self.clip.metrics and self.pictures:
            self.pictures.append(Picture(plate_path(self.clip), "background", role="background", kind="plate"))
        pairs_file.write(self.place.out / pairs_file.path(self.clip), self.pairings)
        refused = (*self.clip.refused, *self.refused)
        clip = replace(self.clip, references=tuple(self.pictures), refused=refused)
        return clip if self.pictures else clip.leave(Pairs.name, "no pair", 0, 1)

    def subject(self, member: Member, own: Sequence[Cut], others: Iterable[Other]) -> None:
        """Its pictures of other times and clips, and scenes of these.

        Only where there are none is it shown changed in the pose that the clip has: a warp is no other pose.
        """
        unlike = self._own(member, own)
        sources = self._cross(member, own, others) or unlike
        if not sources:
            sources = [Source(cut, self.clip, 0.0) for cut in self._chosen(own)]
            for source in sources:
                self._changed(member, source)
        for source in sources:
            self._restored(member, source)
            self._scene(member, source)

    def _chosen(self, cuts: Sequence[Cut]) -> list[Cut]:
        """Those that are references, no more than one kind may have."""
        return [cut for cut in cuts if cut.chosen][: self.config.per_kind]

    def _own(self, member: Member, own: Sequence[Cut]) -> list[Source]:
        """Those of the clip's own pictures whose pose is not the clip's at other times, as they are."""
        kept: list[Source] = []
        for number, cut in enumerate(self._chosen(own)):
            away = [c for c in own if abs(c.sight.time - cut.sight.time) > self.config.away]
            unlike = [c for c in away if difference(c, cut) >= self.config.pose]
            kind: Kind = "other_time" if number else "masked"
            if len(unlike) < self.config.unlike * len(own):
                self._refuse(f"{kind}: own pose", len(unlike) / len(own), self.config.unlike, cut.path)
                continue
            source = Source(cut, self.clip, min(difference(c, cut) for c in unlike))
            alike = max(float(c.look @ cut.look) for c in unlike)
            self._add(member, kind, cut.path, footage.mask_path(cut.path), alike, source)
            kept.append(source)
        return kept

    def _cross(self, member: Member, own: Sequence[Cut], others: Iterable[Other]) -> list[Source]:
        """Other clips' pictures of this subject that are in another pose and are no copy."""
        kept: list[Source] = []
        for other in others:
            for cut in self._chosen(other.cuts)[: self.config.per_kind - len(kept)]:
                source = self._crossed(member, own, cut, other.clip)
                if source:
                    self._add(member, "cross_clip", cut.path, footage.mask_path(cut.path), other.alike, source)
                    kept.append(source)
            if len(kept) >= self.config.per_kind:
                break  # before the next one's pictures are read
        return kept

    def _crossed(self, member: Member, own: Sequence[Cut], cut: Cut, clip: Clip) -> Source | None:
        differences = [difference(c, cut) for c in own]
        share = float(np.mean([d >= self._apart(c, cut) for c, d in zip(own, differences, strict=True)]))
        if share < self.config.cross:
            return self._refuse("cross_clip: same pose", share, self.config.cross, cut.path)
        closest = float((member.known.looks @ cut.look).max())
        if closest > self.config.identity.high:
            return self._refuse("cross_clip: a copy", closest, self.config.identity.high, cut.path)
        return Source(cut, clip, min(differences))

    def _apart(self, own: Cut, cut: Cut) -> float:
        """The difference in pose that a picture of another clip needs: more before the same background."""
        same = same_colours(own.surroundings, cut.surroundings) >= self.config.same_place
        return self.config.same_place_pose if same else self.config.cross_pose

    def _changed(self, member: Member, source: Source) -> None:
        path = self._path(member, source, "changed")
        self._keep(member, source, "changed", changed(*_cut(source), self.config.change, _chance(path)), path)

    def _restored(self, member: Member, source: Source) -> None:
        """Without what stood before the subject, where that is little."""
        if self.inpainter is None or source.cut.sight.scores.get("contested", 0.0) < self.config.occluded:
            return
        path = self._path(member, source, "whole")
        made = restored(*_cut(source), member.track.label, self.inpainter, self.config.notch)
        if made is not None:
            self._keep(member, source, "inpainted", changed(*made, self.config.change, _chance(path)), path)

    def _scene(self, member: Member, source: Source) -> None:
        """Before another clip's clean background, turned and lit otherwise as well."""
        path, scores = self._path(member, source, "scene"), source.cut.sight.scores
        cut_off = scores.get("border", 0.0)
        if cut_off > self.config.border:
            self._refuse("new_background: cut by the frame", cut_off, self.config.border, path)
            return
        chance = _chance(path)
        found = self.backdrops.choose(source.clip, chance)
        if isinstance(found, Drop):
            self.refused.append(replace(found, detail=path))
        elif found is not None:
            grounded = scores.get("floor", 0.0) > self.config.floor
            warp = leaning if grounded else turned  # what the frame cut stays level: the lower border hides its cut
            part = changed(*_cut(source), self.config.change, chance, warp)
            made = before(*part, found[1], self.config.scene, chance, grounded)
            self._keep(member, source, "new_background", made, path, found[0].id)

    def _path(self, member: Member, source: Source, ending: str) -> str:
        """Of a made picture: in the clip's own folder, also where another clip's picture is its source."""
        name = source.cut.path.rsplit("/", 1)[1].removesuffix(".png")
        if source.clip.id != self.clip.id:
            name = f"{member.track.id}-of-{source.clip.id}-{name}"
        return f"references/{self.clip.id}/{name}-{ending}.png"

    def _keep(
        self, member: Member, source: Source, kind: Kind, made: tuple[Pixels, Pixels], path: str, backdrop: str = ""
    ) -> None:
        """Write a made picture that is the same subject."""
        alike = self._gated(member, source.cut, made, path)
        if alike is None:
            return
        footage.write_picture(made[0], self.place.out / path)
        mask = None if kind == "new_background" else footage.mask_path(path)
        if mask:
            footage.write_picture(made[1], self.place.out / mask)
        self._add(member, kind, path, mask, alike, source, backdrop)

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
        self, member: Member, kind: Kind, path: str, mask: str | None, alike: float, source: Source, backdrop: str = ""
    ) -> None:
        weight, track = getattr(self.config.weights, kind), member.track
        other = source.clip.id if source.clip.id != self.clip.id else ""
        self.pictures.append(Picture(path, track.id, track.label, mask=mask, weight=weight, kind=kind))
        self.pairings.append(Pairing(path, kind, track.id, alike, source.pose, other, backdrop))


def _cut(source: Source) -> tuple[Pixels, Pixels]:
    return source.cut.crop, source.cut.mask


def _chance(path: str) -> np.random.Generator:
    """The same picture is always made in the same way."""
    return np.random.default_rng(zlib.crc32(path.encode()))
