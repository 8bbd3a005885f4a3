"""A clip on its way through the stages: plain values that become JSON; pictures and arrays are files beside them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from training.data.record import Picture, Source

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the clip


@dataclass(frozen=True)
class Drop:
    """Why something was left out: the stage, the reason, and the value beside the threshold it missed.

    ``metric`` names the clip's metric that holds the value; "" where no metric of kept clips can be set beside it.
    """

    stage: str
    reason: str
    value: float = 0.0
    threshold: float = 0.0
    detail: str = ""
    metric: str = ""


@dataclass(frozen=True)
class Sight:
    """One subject in one frame, ``time`` seconds after the clip's beginning; the mask is a greyscale PNG."""

    time: float
    box: Box
    score: float
    mask: str = ""
    scores: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Track:
    """One subject (an instance, not a class) through a clip. ``features`` is a file of named embeddings (npz)."""

    id: str
    label: str
    label_source: str  # "caption", "detector"
    sights: tuple[Sight, ...]
    features: str = ""
    face: bool = False
    dropped: Drop | None = None


@dataclass(frozen=True)
class Clip:
    """``start`` to ``end`` seconds of ``source``. Paths are relative to the output folder.

    ``video`` is the clip as a file of its own, once it is cut. ``stages`` tells each stage's version by its name,
    ``seconds`` how long each took. A clip with ``dropped`` goes no further, but stays in the report.
    """

    id: str
    source: Source
    start: float = 0.0
    end: float = 0.0
    width: int = 0
    height: int = 0
    fps: float = 0.0
    frames: int = 0
    video: str = ""
    caption: str = ""
    caption_source: str = ""
    words: tuple[str, ...] = ()  # the subjects' words, each a part of the caption
    metrics: Mapping[str, float] = field(default_factory=dict)
    tracks: tuple[Track, ...] = ()
    references: tuple[Picture, ...] = ()
    refused: tuple[Drop, ...] = ()  # tracks and pictures that did not pass
    stages: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    dropped: Drop | None = None

    @property
    def kept_tracks(self) -> tuple[Track, ...]:
        """Those that no stage has refused."""
        return tuple(track for track in self.tracks if track.dropped is None)

    def measured(self, **metrics: float) -> "Clip":
        """With these metrics beside those it has."""
        return replace(self, metrics={**self.metrics, **metrics})

    def leave(
        self, stage: str, reason: str, value: float = 0.0, threshold: float = 0.0, detail: str = "", metric: str = ""
    ) -> "Clip":
        """Left out, for this reason."""
        return replace(self, dropped=Drop(stage, reason, value, threshold, detail, metric))
