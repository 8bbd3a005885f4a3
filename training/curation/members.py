"""A subject of a clip with all its masked sights, as pairs are made of them."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from . import footage
from .clip import Clip, Sight, Track
from .identity import Known
from .models.kinds import Pixels, Vector
from .naming import is_person
from .pose import colours, pose_difference, surroundings
from .references import read_sight, reference_path
from .stage import Place


@dataclass(frozen=True)
class Cut:
    """A masked sight, read."""

    sight: Sight
    crop: Pixels
    mask: Pixels

    @cached_property
    def surroundings(self) -> NDArray[np.float32]:
        return surroundings(self.crop, self.mask)


@dataclass(frozen=True)
class Member:
    """A track with its masked sights, and those of them that are references."""

    clip: int
    track: Track
    cuts: tuple[Cut, ...]
    chosen: tuple[Cut, ...]
    known: Known

    def look(self, cut: Cut) -> Vector:
        """The vector of one of ``cuts``."""
        return self.known.looks[next(n for n, mine in enumerate(self.cuts) if mine is cut)]


def difference(one: Cut, other: Cut) -> float:
    return pose_difference((one.crop, one.mask), (other.crop, other.mask))


def read_member(number: int, clip: Clip, track: Track, place: Place) -> Member:
    features = footage.read_features(place.out / track.features)
    cuts = tuple(Cut(sight, *read_sight(clip, track, sight, place)[:2]) for sight in track.sights if sight.mask)
    paths = {picture.path for picture in clip.references}
    chosen = tuple(cut for cut in cuts if reference_path(clip, track, cut.sight) in paths)
    known = Known(
        clip=number,
        track=track.id,
        source=clip.source.sha1 or clip.source.path,
        person=is_person(track.label),
        looks=features.looks,
        colours=np.stack([colours(cut.crop, cut.mask) for cut in cuts]),
        faces=features.faces,
    )
    return Member(number, track, cuts, chosen, known)
