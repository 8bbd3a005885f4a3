"""What a track is called: by the caption, by a detector that is sure, or by a neutral word."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .clip import Clip
from .cutting import Look
from .models.kinds import ImageText
from .tracking import Spot, vote

NEUTRAL = "subject"
PERSONS = frozenset(["person", "man", "woman", "boy", "girl", "child", "baby", "people", "lady", "player", "dancer"])
CONFUSED = frozenset(["person", "cat", "dog", "bird", "bear", "horse", "car", "toy", "flower", "tree", "chair", "cup"])


@dataclass(frozen=True)
class NamingConfig:
    """When a label is believed."""

    sure: float = 0.60  # score and vote of a detector's label
    certain: float = 0.80  # and where no image-text model can agree
    fit: float = 0.25  # of the label among things that it is confused with, by the image-text model


def named_by_caption(clip: Clip) -> bool:
    """Whether its words come from someone who looked, rather than from a template over detections."""
    return bool(clip.words) and clip.caption_source not in ("", "template", "detector")


def label_of(
    clip: Clip, spots: Sequence[Spot], looks: Sequence[Look], config: NamingConfig, image_text: ImageText | None
) -> tuple[str, str]:
    """The label and where it comes from. A detector of few classes calls a rabbit a dog: in doubt it has no say.

    A word of the caption needs no sure detector; the image-text model may still deny it. What a detector calls a
    person is one when it has a face.
    """
    label, share = vote(spots)
    told = named_by_caption(clip) and label in clip.words
    known = image_text is not None or (is_person(label) and any(look.face for look in looks))
    limit = config.sure if known else config.certain
    sure = told or min(share, float(np.mean([spot.score for spot in spots]))) >= limit
    if sure and label and image_text is not None:
        picture = max(looks, key=lambda look: look.scores["sharp"]).white
        sure = image_text.fit(picture, [label, *sorted(CONFUSED - {label})])[0] >= config.fit
    return (label if sure and label else NEUTRAL), ("caption" if sure and told else "detector")


def is_person(label: str) -> bool:
    """Whether a label speaks of people: "woman", "old man"."""
    return bool(PERSONS & set(label.lower().split()))
