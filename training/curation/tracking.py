"""From detections in single frames to instances: two of one class stay apart, and what is ambiguous is no track."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .boxes import overlap
from .clip import Box
from .models.kinds import Vector


@dataclass(frozen=True)
class TrackingConfig:
    """When two detections are one thing. A missing link costs frames; a wrong one costs an identity."""

    overlap: float = 0.25  # of the box, moved by optical flow, with the next one
    alike: float = 0.55  # cosine of the two looks, at least
    sure_overlap: float = 0.6  # at which looks count less (a head turns)
    ambiguous: float = 0.12  # a second match this near to the best: no link at all
    gap: int = 2  # frames that a thing may be hidden
    sights: int = 4  # fewer are no track
    joined: float = 0.85  # two pieces that never meet: one thing above this likeness,
    apart: float = 0.70  # two below it, and a case for dropping between


@dataclass(frozen=True)
class Spot:
    """A detection in a frame, with its look."""

    frame: int
    box: Box
    score: float
    label: str
    look: Vector


@dataclass
class Chain:
    """A track in the making; ``here`` is where its last box would be now."""

    spots: list[Spot]
    here: Box
    open: bool = True
    look: Vector = field(default_factory=lambda: np.zeros(1, np.float32))


Move = Callable[[int, Box], Box]  # (frame, box in it) -> box in the next frame


def link(frames: Sequence[Sequence[Spot]], move: Move, config: TrackingConfig) -> list[tuple[Spot, ...]]:
    """Spots of each frame as tracks, in the order in which they begin; short ones are left to the caller."""
    chains: list[Chain] = []
    for number, spots in enumerate(frames):
        live = [chain for chain in chains if chain.open]
        if number:
            for chain in live:
                chain.here = move(number - 1, chain.here)
        taken = _matches(live, spots, config)
        for chain, spot in taken:
            chain.spots.append(spot)
            chain.here = spot.box
            chain.look = _unit(0.7 * chain.look + 0.3 * spot.look)
        used = {id(spot) for _, spot in taken}
        for chain in live:
            chain.open = chain.open and number - chain.spots[-1].frame <= config.gap
        chains += [Chain([spot], spot.box, look=spot.look) for spot in spots if id(spot) not in used]
    return [tuple(chain.spots) for chain in chains]


def _matches(chains: Sequence[Chain], spots: Sequence[Spot], config: TrackingConfig) -> list[tuple[Chain, Spot]]:
    """Pairs that are each other's best by a margin. Where two would do, neither is taken and both tracks end."""
    if not chains or not spots:
        return []
    table = np.array([[affinity(chain, spot, config) for spot in spots] for chain in chains])
    near = (table > 0) & (table > table.max(axis=1, keepdims=True) - config.ambiguous)
    also = (table > 0) & (table > table.max(axis=0, keepdims=True) - config.ambiguous)
    pairs: list[tuple[Chain, Spot]] = []
    for row, chain in enumerate(chains):
        column = int(table[row].argmax())
        rivals = also[:, column].sum() > 1 and also[row, column]
        if near[row].sum() > 1 or rivals:
            chain.open = False
        elif also[row, column]:
            pairs.append((chain, spots[column]))
    return pairs


def affinity(chain: Chain, spot: Spot, config: TrackingConfig) -> float:
    """How well a spot goes on with a chain: 0 for not at all."""
    iou, alike = overlap(chain.here, spot.box), float(chain.look @ spot.look)
    if iou < config.overlap or (alike < config.alike and iou < config.sure_overlap):
        return 0.0
    return 0.6 * iou + 0.4 * max(alike, 0.0)


def _unit(vector: NDArray[np.floating]) -> Vector:
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-6), np.float32)


def mean_look(spots: Sequence[Spot]) -> Vector:
    return _unit(np.mean([spot.look for spot in spots], axis=0))


def meet(one: Sequence[Spot], other: Sequence[Spot]) -> bool:
    """Whether both are seen at one time: then they are two."""
    return bool({spot.frame for spot in one} & {spot.frame for spot in other})


def join(
    tracks: Sequence[tuple[Spot, ...]], config: TrackingConfig
) -> tuple[list[tuple[Spot, ...]], list[tuple[tuple[Spot, ...], float]]]:
    """Pieces of one thing as one track; and those that may or may not be another's piece, with the likeness.

    Longer tracks come first: a piece joins the only one that it resembles and never meets.
    """
    kept: list[tuple[Spot, ...]] = []
    doubtful: list[tuple[tuple[Spot, ...], float]] = []
    for track in sorted(tracks, key=len, reverse=True):
        apart = [place for place, other in enumerate(kept) if not meet(track, other)]
        near = sorted(((float(mean_look(track) @ mean_look(kept[place])), place) for place in apart), reverse=True)
        if not near or near[0][0] < config.apart:
            kept.append(track)
        elif near[0][0] >= config.joined and (len(near) < 2 or near[0][0] - near[1][0] >= config.ambiguous):
            place = near[0][1]
            kept[place] = tuple(sorted(kept[place] + track, key=lambda spot: spot.frame))
        else:
            doubtful.append((track, near[0][0]))
    return kept, doubtful


def vote(spots: Sequence[Spot]) -> tuple[str, float]:
    """The label that most of the score goes to, and its share."""
    weights: dict[str, float] = {}
    for spot in spots:
        weights[spot.label] = weights.get(spot.label, 0.0) + spot.score
    label = max(weights, key=lambda name: weights[name])
    return label, weights[label] / sum(weights.values())
