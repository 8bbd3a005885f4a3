"""Drops clips that nothing is learned from: small, short, dark, blurred, frozen, shaken, written upon."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from . import video
from .clip import Clip
from .masks import cv2, sharpness
from .models.kinds import Pixels, TextFinder
from .motion import measure_motion
from .stage import Place, Resources

FPS = 8.0  # frames a second that are looked at
COLUMNS = 448  # in which motion is measured
ROWS = 256  # in which bars are looked for
LARGEST = 1080  # rows of a frame, at most
LOOKED_FOR_TEXT = (0.2, 0.5, 0.8)  # shares of the clip's time
DARK_BAR = 24  # of 255: a bar is darker,
THIN_BAR = 0.015  # and wider than this share of the side
NIGHT = 64  # of 255: where nine tenths are darker, dark borders are no bars
INSIDE = 2  # pixels cut off beside a bar

Bars = tuple[float, float, float, float]


@dataclass(frozen=True)
class QualityConfig:
    """Thresholds. Motion is in pixels between frames an eighth of a second apart, in a picture of 448 columns."""

    side: int = 480  # pixels of the shorter side, without bars
    seconds: float = 2.0
    dark: float = 25.0  # mean luma, 0 to 255
    bright: float = 235.0
    sharp: float = 40.0  # variance of the Laplacian, the longer side at 256 pixels
    motion: float = 0.10  # of the whole picture, camera included
    wild: float = 12.0  # above that the flow loses its way on grass and bricks, and tells less than there is
    free: float = 0.008  # of the picture, that moves otherwise than the camera
    still: float = 0.5  # share of the time in which nothing moves
    text: float = 0.02  # of the picture, in the worst of three frames
    mark: float = 0.0012  # of the picture's rim: edges that stay although the camera moves
    bars: float = 0.6  # of the picture must be left without bars


class Quality:
    """Measures all, then drops for the first limit that is missed; constant black bars are cut off instead."""

    name: ClassVar[str] = "quality"
    version: ClassVar[str] = "2"

    def __init__(
        self, config: QualityConfig, text: Callable[[], TextFinder] | None = None, resources: Resources | None = None
    ) -> None:
        self.config, self._make_text = config, text
        self.resources = resources or Resources()

    @cached_property
    def _text(self) -> TextFinder | None:
        return self._make_text() if self._make_text else None

    def one(self, clip: Clip, place: Place) -> Sequence[Clip]:
        path, length = place.out / clip.video, clip.end - clip.start
        if length < self.config.seconds:
            short = clip.measured(seconds=length)
            return [short.leave(self.name, "short", length, self.config.seconds, metric="seconds")]
        frames = [*video.stream(path, FPS, fitting(clip))]
        if not frames:
            return [clip.leave(self.name, "unreadable", detail="no frame")]
        bars = find_bars([smaller(frame, ROWS) for frame in frames[::4]])
        if bars != (0.0, 0.0, 0.0, 0.0):
            left = (1 - bars[0] - bars[2]) * (1 - bars[1] - bars[3])
            clip = clip.measured(bars=1 - left)
            if left < self.config.bars:
                return [clip.leave(self.name, "bars", 1 - left, 1 - self.config.bars, metric="bars")]
            clip = without_bars(clip, bars, place)
            frames = [inside(frame, bars) for frame in frames]
        return [self._judged(self._measured(clip, frames))]

    def _measured(self, clip: Clip, frames: Sequence[Pixels]) -> Clip:
        rows = max(2, round(clip.height * COLUMNS / clip.width))
        grey = [cv2().cvtColor(smaller(frame, rows), cv2().COLOR_RGB2GRAY) for frame in frames]
        chosen = [frames[int(share * len(frames))] for share in LOOKED_FOR_TEXT]
        motion = measure_motion(grey)
        clip = clip.measured(
            side=min(clip.width, clip.height),
            luma=float(np.mean([frame.mean() for frame in grey])),
            sharp=float(np.median([sharpness(picture) for picture in chosen])),
            motion=motion.all,
            camera=motion.camera,
            own=motion.own,
            free=motion.free,
            still=motion.still,
        )
        if motion.mark is not None:
            clip = clip.measured(mark=motion.mark)
        if self._text is not None:
            clip = clip.measured(text=max(text_share(picture, self._text) for picture in chosen))
        return clip

    def _judged(self, clip: Clip) -> Clip:
        """Dropped for the first limit that is missed; the surest signs come first."""
        for reason, metric, least, most in limits(self.config):
            value = clip.metrics.get(metric)
            if value is not None and not least <= value <= most:
                return clip.leave(self.name, reason, value, least if value < least else most, metric=metric)
        return clip


def limits(config: QualityConfig) -> Sequence[tuple[str, str, float, float]]:
    """Reason, metric, least and most, the surest signs first."""
    any_value = float("inf")
    return (
        ("small", "side", config.side, any_value),
        ("dark", "luma", config.dark, any_value),
        ("bright", "luma", 0.0, config.bright),
        ("text", "text", 0.0, config.text),
        ("blurry", "sharp", config.sharp, any_value),
        ("still", "still", 0.0, config.still),
        ("still", "motion", config.motion, any_value),
        ("wild", "motion", 0.0, config.wild),
        ("camera only", "free", config.free, any_value),
        ("mark", "mark", 0.0, config.mark),
    )


def fitting(clip: Clip) -> tuple[int, int]:
    """Width and height of the frames that are looked at: the clip's own, up to ``LARGEST`` rows."""
    share = min(1.0, LARGEST / clip.height)
    return max(1, round(clip.width * share)), max(1, round(clip.height * share))


def smaller(picture: Pixels, rows: int) -> Pixels:
    """Of ``rows`` rows in the same shape."""
    columns = max(2, round(picture.shape[1] * rows / picture.shape[0]))
    way = cv2().INTER_AREA if rows < picture.shape[0] else cv2().INTER_LINEAR
    return cv2().resize(picture, (columns, rows), interpolation=way)


def inside(picture: Pixels, bars: Bars) -> Pixels:
    """Without the bars, and a little more."""
    height, width = picture.shape[:2]
    left, top, right, bottom = _edges(bars, width, height)
    return np.ascontiguousarray(picture[top : height - bottom, left : width - right])


def _edges(bars: Bars, width: int, height: int) -> list[int]:
    """Pixels to cut off: left, top, right, bottom."""
    sides = np.array([width, height] * 2)
    return (np.rint(np.array(bars) * sides).astype(int) + INSIDE * (np.array(bars) > 0)).tolist()


def text_share(picture: Pixels, finder: TextFinder) -> float:
    """Of the picture, under boxes of text."""
    covered = np.zeros(picture.shape[:2], bool)
    for found in finder.text(picture):
        left, top, right, bottom = (round(edge) for edge in found.box)
        covered[max(top, 0) : bottom, max(left, 0) : right] = True
    return float(covered.mean())


def find_bars(pictures: Sequence[Pixels]) -> Bars:
    """Shares of the picture's sides (left, top, right, bottom) that are black in every frame."""
    most = np.max([picture.max(axis=-1) for picture in pictures], axis=0).astype(np.float32)
    if np.quantile(most, 0.9) < NIGHT:
        return (0.0, 0.0, 0.0, 0.0)
    # A few bright pixels are the encoder's ringing.
    rows, columns = (np.quantile(most, 0.98, axis=axis) >= DARK_BAR for axis in (1, 0))
    top, bottom = int(rows.argmax()), int(rows[::-1].argmax())
    left, right = int(columns.argmax()), int(columns[::-1].argmax())
    sides = np.array([left, top, right, bottom]) / np.array([len(columns), len(rows)] * 2)
    return tuple(float(side) if side > THIN_BAR else 0.0 for side in sides)  # pyright: ignore[reportReturnType]


def without_bars(clip: Clip, bars: Bars, place: Place) -> Clip:
    """The clip cut anew from its source, a little inside of the bars; the old file stays, for a run that is killed."""
    left, top, right, bottom = _edges(bars, clip.width, clip.height)
    width, height = (clip.width - left - right) // 2 * 2, (clip.height - top - bottom) // 2 * 2
    name = clip.video.removesuffix(".mp4") + "-inside.mp4"
    video.cut(Path(clip.source.path), clip.start, clip.end, place.out / name, (left, top, width, height))
    return replace(clip, video=name, width=width, height=height)
