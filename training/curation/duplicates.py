"""Drops clips that show what another one shows: perceptual hashes of a few frames, the better clip stays."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from . import footage
from .clip import Clip
from .masks import cv2
from .models.kinds import Pixels
from .stage import Place, of_each

SIDE = 32  # pixels of the picture that is hashed
KEPT = 8  # lowest frequencies each way: 64 bits
MOMENTS = 5  # frames of a clip


@dataclass(frozen=True)
class DuplicatesConfig:
    """How near two clips' frames must be."""

    bits: float = 8.0  # of 64, that frames may differ in, in the mean
    colours: float = 0.12  # that their small pictures may differ in, of 1


@dataclass(frozen=True)
class Print:
    """A clip's frames as hashes ``[M 64]`` and as tiny pictures ``[M 4 4 3]`` without their mean and contrast."""

    hashes: NDArray[np.bool_]
    tiny: NDArray[np.float32]


class Duplicates:
    """Compares all clips with all; of two that are alike, the larger, longer and sharper one is kept."""

    name: ClassVar[str] = "duplicates"
    version: ClassVar[str] = "1"

    def __init__(self, config: DuplicatesConfig) -> None:
        self.config = config

    def all(self, clips: Sequence[Clip], place: Place) -> Sequence[Clip]:
        printed, judged = of_each(self.name, clips, lambda clip: print_of(clip, place))
        prints = {clip.id: made for clip, made in printed}
        best_first = sorted(sorted((clip for clip, _ in printed), key=lambda clip: clip.id), key=_worth, reverse=True)
        kept: list[Clip] = []
        for clip in best_first:
            near = [(distance(prints[clip.id], prints[other.id]), other.id) for other in kept]
            bits, colours, name = min(((*apart, name) for apart, name in near), default=(64.0, 1.0, ""))
            if bits <= self.config.bits and colours <= self.config.colours:
                clip = clip.measured(bits=bits).leave(self.name, "copy", bits, self.config.bits, name, "bits")
            else:
                clip = clip.measured(bits=bits)
                kept.append(clip)
            judged.append(clip)
        return judged


def _worth(clip: Clip) -> tuple[float, float, float]:
    return clip.width * clip.height, round(clip.end - clip.start), clip.metrics.get("sharp", 0.0)


def print_of(clip: Clip, place: Place) -> Print:
    length = clip.end - clip.start
    fps = MOMENTS / length
    pictures = footage.frames(clip, place, fps)[1][:MOMENTS]
    return Print(np.stack([hash_of(picture) for picture in pictures]), np.stack([_tiny(p) for p in pictures]))


def hash_of(picture: Pixels) -> NDArray[np.bool_]:
    """64 bits: which low frequencies are above their median."""
    grey = cv2().cvtColor(picture, cv2().COLOR_RGB2GRAY)
    small = cv2().resize(grey, (SIDE, SIDE), interpolation=cv2().INTER_AREA).astype(np.float32)
    low = cv2().dct(small)[:KEPT, :KEPT].ravel()
    return low > np.median(low[1:])


def _tiny(picture: Pixels) -> NDArray[np.float32]:
    small = cv2().resize(picture, (4, 4), interpolation=cv2().INTER_AREA).astype(np.float32)
    return (small - small.mean()) / max(float(small.std()), 1.0)


def distance(one: Print, other: Print) -> tuple[float, float]:
    """Mean bits and mean difference of tiny pictures, frame by frame in order."""
    count = min(len(one.hashes), len(other.hashes))
    bits = (one.hashes[:count] != other.hashes[:count]).sum(-1).mean()
    return float(bits), float(np.abs(one.tiny[:count] - other.tiny[:count]).mean() / 4)
