"""Which tracks of one source show the same subject: mutual nearest neighbours inside a window of likeness."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .models.kinds import FaceModel, Vector
from .pose import same_colours


@dataclass(frozen=True)
class IdentityConfig:
    """The window. Above ``high`` two pictures are copies; below ``low`` they may be two subjects."""

    low: float = 0.72  # cosine of looks
    high: float = 0.97
    colours: float = 0.45  # intersection of colour histograms
    margin: float = 0.04  # by which a match beats every other subject of the same clip
    face: float = 0.55  # likeness of faces, where both have one


@dataclass(frozen=True)
class Known:
    """A track with its vectors: rows of ``looks`` belong to masked sights, as those of ``colours``."""

    clip: int
    track: str
    source: str
    person: bool
    looks: Vector
    colours: NDArray[np.float32]
    faces: Vector


@dataclass(frozen=True)
class Match:
    """Two tracks of one identity, and how alike they are."""

    one: int
    other: int
    likeness: float


def likeness(one: Known, other: Known) -> float:
    """The mean, over sights, of the best look in the other track."""
    table = one.looks @ other.looks.T
    return float(table.max(axis=1).mean() + table.max(axis=0).mean()) / 2


def colour_likeness(one: Known, other: Known) -> float:
    best = [max(same_colours(mine, yours) for yours in other.colours) for mine in one.colours]
    return float(np.mean(best))


def face_likeness(one: Known, other: Known, faces: FaceModel | None) -> float | None:
    """The best of all pairs of faces; None where one has no face."""
    if faces is None or not len(one.faces) or not len(other.faces):
        return None
    return max(faces.likeness(mine, yours) for mine in one.faces for yours in other.faces)


def matches(tracks: Sequence[Known], config: IdentityConfig, faces: FaceModel | None = None) -> list[Match]:
    """Pairs of tracks of different clips of one source that are the same subject, each pair once.

    A track is matched in every other clip of its source for which the choice is mutual and beats that clip's other
    subjects by the margin: two that are seen at once are known to be two.
    """
    groups: dict[str, dict[int, list[int]]] = {}
    for number, track in enumerate(tracks):
        groups.setdefault(track.source, {}).setdefault(track.clip, []).append(number)
    made: list[Match] = []
    for clips in groups.values():
        names = sorted(clips)
        for place, first in enumerate(names):
            for second in names[place + 1 :]:
                made += _between(tracks, clips[first], clips[second], config, faces)
    return made


def _between(
    tracks: Sequence[Known], mine: Sequence[int], yours: Sequence[int], config: IdentityConfig, faces: FaceModel | None
) -> list[Match]:
    table = np.array([[likeness(tracks[a], tracks[b]) for b in yours] for a in mine], np.float32)
    made: list[Match] = []
    for row, a in enumerate(mine):
        column = int(table[row].argmax())
        best = float(table[row, column])
        others = np.concatenate([np.delete(table[row], column), np.delete(table[:, column], row)])
        if best - float(others.max(initial=-1.0)) < config.margin:
            continue
        if config.low <= best <= config.high and _proved(tracks[a], tracks[yours[column]], config, faces):
            made.append(Match(a, yours[column], best))
    return made


def _proved(one: Known, other: Known, config: IdentityConfig, faces: FaceModel | None) -> bool:
    """By faces for persons, by colours for all else."""
    face = face_likeness(one, other, faces)
    if face is not None:
        return face >= config.face
    if one.person or other.person:
        return False
    return colour_likeness(one, other) >= config.colours
