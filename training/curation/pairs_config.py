"""Limits and weights of the pictures that a clip is trained with."""

from dataclasses import dataclass, field
from typing import Literal

from .identity import IdentityConfig
from .variants import ChangeConfig, SceneConfig

Kind = Literal["masked", "other_time", "cross_clip", "new_background", "changed", "inpainted"]


@dataclass(frozen=True)
class Weights:
    """How often each kind is drawn, against the others of its subject."""

    masked: float = 1.0
    other_time: float = 1.0
    cross_clip: float = 4.0  # the heaviest: the official folders take one picture of a subject, and it should be this
    new_background: float = 2.0
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
    away: float = 1.0  # seconds
    gate: float = 0.80  # cosine of a made picture with its source
    face: float = 0.5  # likeness of its face with the source's
    subjects: int = 3
    occluded: float = 0.01  # share of a mask that something before the subject took, at least, to be filled
    notch: float = 0.03  # and the share that may be filled: more would be invented
    floor: float = 0.005  # share of the outline on the frame's lower border, from which it stands there in a scene too
    border: float = 0.005  # and on its other borders, at most, for a scene: the cut would show
    per_kind: int = 2  # pictures of one kind for one subject
    background: bool = True
    weights: Weights = field(default_factory=Weights)
    identity: IdentityConfig = field(default_factory=IdentityConfig)
    change: ChangeConfig = field(default_factory=ChangeConfig)
    scene: SceneConfig = field(default_factory=SceneConfig)
