"""A caption from what a detector is sure of: poor, but true. Better ones come from a sidecar or a model."""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from .kinds import Detector, Found, Pixels

SURE = 0.6  # score of what is named, in
SEEN = 0.5  # this share of the frames
BRIGHT, DARK = 150, 70  # mean luma of a frame
WORDS = 3


class Template:
    """A ``Captioner``: "A dog and a person in bright light."""

    def __init__(self, detector: Callable[[], Detector]) -> None:
        self._detector = detector()

    def caption(self, frames: Sequence[Pixels]) -> tuple[str, tuple[str, ...]]:
        words = sure_labels([self._detector.find(frame) for frame in frames])
        named = [f"{'an' if word[0] in 'aeiou' else 'a'} {word}" for word in words]
        subject = named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}" if named else "a scene"
        light = float(np.mean([frame.mean() for frame in frames]))
        where = " in bright light" if light > BRIGHT else " in the dark" if light < DARK else ""
        return f"{subject[0].upper()}{subject[1:]}{where}.", words


def sure_labels(found: Sequence[Sequence[Found]]) -> tuple[str, ...]:
    """The labels that most frames agree on, the most frequent first."""
    counts = Counter(label for frame in found for label in {one.label for one in frame if one.score >= SURE})
    return tuple(label for label, count in counts.most_common(WORDS) if count >= SEEN * len(found))
