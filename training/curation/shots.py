"""From a video to clips: one shot each, in pieces of the length that is trained at, as files of their own."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from . import video
from .clip import Clip
from .models.kinds import Pixels
from .packages import load
from .stage import Place, Resources

RATE = 24.0  # frames a second that are looked at, at most
FLASH = 0.2  # seconds within which a shot that goes on is seen again
SAME = 0.9  # correlation of small pictures of one shot


@dataclass(frozen=True)
class ShotsConfig:
    """Where a shot ends, and how long a clip is. The model is trained on 81 frames at 16 a second: 5 seconds."""

    change: float = 3.0  # of a frame's colours against that around it (PySceneDetect's adaptive threshold)
    least_change: float = 15.0  # of colours and light, 0 to 255
    rows: int = 144  # of the picture that is looked at
    margin: float = 0.1  # seconds left out beside a cut
    least: float = 2.0  # seconds of a clip
    most: float = 5.1


class Shots:
    """Cuts are found by PySceneDetect's adaptive detector; a long shot becomes several clips."""

    name: ClassVar[str] = "shots"
    version: ClassVar[str] = "2"

    def __init__(self, config: ShotsConfig) -> None:
        self.config, self.resources = config, Resources()

    def one(self, clip: Clip, place: Place) -> Sequence[Clip]:
        cuts = find_cuts(clip, self.config)
        pieces = split([0.0, *cuts, clip.end], clip.end, self.config)
        if not pieces:
            longest = float(np.diff([0.0, *cuts, clip.end]).max())
            clip = clip.measured(shots=len(cuts) + 1, seconds=longest)
            return [clip.leave(self.name, "short", longest, self.config.least, metric="seconds")]
        return [self._cut(clip, number, *piece, place) for number, piece in enumerate(pieces)]

    def _cut(self, clip: Clip, number: int, start: float, end: float, place: Place) -> Clip:
        name = f"{clip.id}-{number:04d}"
        piece = replace(clip, id=name, start=round(start, 3), end=round(end, 3), video=f"clips/{name}/clip.mp4")
        video.cut(Path(clip.source.path), piece.start, piece.end, place.folder(piece) / "clip.mp4")
        return replace(piece, frames=round((piece.end - piece.start) * clip.fps), metrics={}).measured(
            seconds=piece.end - piece.start
        )


def find_cuts(clip: Clip, config: ShotsConfig) -> list[float]:
    """Times of the first frames of new shots, in seconds."""
    scenes = load("scenedetect", "scenedetect-headless")
    fps = min(RATE, clip.fps or RATE)
    detector = load("scenedetect.detectors", "scenedetect-headless").AdaptiveDetector(
        adaptive_threshold=config.change, min_content_val=config.least_change, min_scene_len=max(2, round(0.3 * fps))
    )
    size = (max(2, round(clip.width / clip.height * config.rows / 2) * 2), config.rows)
    found: list[int] = []
    tiny: list[NDArray[np.float32]] = []
    for number, picture in enumerate(video.stream(Path(clip.source.path), fps, size)):
        moment = scenes.FrameTimecode(number, fps)
        found += [cut.frame_num for cut in detector.process_frame(moment, _blue_first(picture))]
        tiny.append(_tiny(picture))
    soon = max(2, round(FLASH * fps))
    return [number / fps for number in sorted(found) if not comes_back(tiny, number, soon)]


def comes_back(tiny: Sequence[NDArray[np.float32]], cut: int, soon: int) -> bool:
    """Whether frames on both sides of a cut show the same after all: a flash of light, or something passing by."""
    before, after = tiny[max(cut - soon, 0) : cut], tiny[cut : cut + soon]
    return bool(before and after) and max(float((one * other).mean()) for one in before for other in after) > SAME


def _tiny(picture: Pixels) -> NDArray[np.float32]:
    """9 x 16 cells of grey without their mean and contrast: two of them times one another are a correlation."""
    rows, columns = (
        np.arange(count) * side // count for side, count in ((picture.shape[0], 9), (picture.shape[1], 16))
    )
    grey = np.add.reduceat(np.add.reduceat(picture.mean(axis=2, dtype=np.float32), rows, 0), columns, 1)
    return (grey - grey.mean()) / max(float(grey.std()), 1e-3)


def _blue_first(picture: Pixels) -> Pixels:
    return np.ascontiguousarray(picture[..., ::-1])


def split(borders: Sequence[float], whole: float, config: ShotsConfig) -> list[tuple[float, float]]:
    """Clips between the borders of shots: equal pieces of at most ``most`` seconds, none under ``least``."""
    pieces = []
    for first, last in zip(borders, borders[1:], strict=False):
        start = first + (config.margin if first > 0 else 0.0)
        end = last - (config.margin if last < whole else 0.0)
        if end - start < config.least:
            continue
        count = max(1, int(np.ceil((end - start) / config.most)))
        edges = np.linspace(start, end, count + 1)
        pieces += [(float(a), float(b)) for a, b in zip(edges, edges[1:], strict=False)]
    return pieces
