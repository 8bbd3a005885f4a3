"""A subject of a clip, and its masked sights, as pairs are made of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from . import footage
from .clip import Clip, Sight, Track
from .identity import Known
from .masks import Area
from .models.kinds import Pixels, Vector
from .naming import is_person
from .pose import colours, pose_difference, surroundings
from .references import read_sight, reference_path
from .stage import Place

KEPT = 16  # members whose pictures stay in memory, of 1 to 10 MB each


@dataclass(frozen=True)
class Cut:
    """A masked sight, read: with its vector, and whether its picture at ``path`` is a reference."""

    sight: Sight
    crop: Pixels
    mask: Pixels
    real: Area  # where the crop lies in its frame
    look: Vector
    path: str
    chosen: bool

    @cached_property
    def surroundings(self) -> NDArray[np.float32]:
        return surroundings(self.crop, self.mask, self.real)


@dataclass(frozen=True)
class Member:
    """A track of the clip with this number. Without pictures: the members of all clips are held at once."""

    clip: int
    track: Track
    known: Known


class Cuts:
    """The cuts of members, by their rows; read when they are asked for."""

    def __init__(self, members: Sequence[Member], clips: Sequence[Clip], place: Place) -> None:
        def read(row: int) -> tuple[Cut, ...]:
            return read_cuts(clips[members[row].clip], members[row].track, place)

        self.of = lru_cache(maxsize=KEPT)(read)


def difference(one: Cut, other: Cut) -> float:
    """In pose: 0 for the same picture, about 0.5 for another pose."""
    return pose_difference((one.crop, one.mask), (other.crop, other.mask))


def read_cuts(clip: Clip, track: Track, place: Place) -> tuple[Cut, ...]:
    """The masked sights of a track, in their order."""
    looks = footage.read_features(place.out / track.features).looks
    paths = {picture.path for picture in clip.references}
    cuts: list[Cut] = []
    for sight, look in zip([sight for sight in track.sights if sight.mask], looks, strict=True):
        read, path = read_sight(clip, track, sight, place), reference_path(clip, track, sight)
        cuts.append(Cut(sight, read.crop, read.mask, read.real, look, path, path in paths))
    return tuple(cuts)


def read_member(number: int, clip: Clip, track: Track, place: Place) -> Member:
    """What must be known of a track to find it in other clips; ``number`` is its clip's."""
    features = footage.read_features(place.out / track.features)
    known = Known(
        clip=number,
        track=track.id,
        source=clip.source.key,
        person=is_person(track.label),
        looks=features.looks,
        colours=np.stack([colours(cut.crop, cut.mask) for cut in read_cuts(clip, track, place)]),
        faces=features.faces,
    )
    return Member(number, track, known)
