"""What a stage asks of a model. Pictures are uint8 ``[H W 3]`` RGB, masks uint8 ``[H W]`` (255 is the subject)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..clip import Box

Pixels = NDArray[np.uint8]
Vector = NDArray[np.float32]


@dataclass(frozen=True)
class Found:
    """Something found in a picture: what it is called, where, and how sure the model is (0 to 1)."""

    label: str
    box: Box
    score: float


class Detector(Protocol):
    """``words`` asks for these things; a model of fixed classes maps them to its own or, for no words, tells all."""

    def find(self, picture: Pixels, words: Sequence[str] = ()) -> list[Found]: ...


class Segmenter(Protocol):
    """The mask of what lies in ``box``; pictures of one track may be given in order to a model that follows."""

    def mask(self, picture: Pixels, box: Box) -> Pixels: ...


class Embedder(Protocol):
    """A unit vector; near vectors are the same thing. White around the subject is no part of it."""

    def embed(self, picture: Pixels, mask: Pixels | None = None) -> Vector: ...


@dataclass(frozen=True)
class Face:
    """A face: where, how sure, and its identity vector (cosine or distance is the model's own: see ``FaceModel``)."""

    box: Box
    score: float
    identity: Vector


class FaceModel(Protocol):
    def faces(self, picture: Pixels) -> list[Face]: ...

    def likeness(self, one: Vector, other: Vector) -> float:
        """0 (another person) to 1 (the same); 0.5 is the model's own threshold."""
        ...


class TextFinder(Protocol):
    """Boxes of text and watermarks."""

    def text(self, picture: Pixels) -> list[Found]: ...


class Captioner(Protocol):
    """A sentence on the frames, and the words of its subjects, each an exact part of the sentence."""

    def caption(self, frames: Sequence[Pixels]) -> tuple[str, tuple[str, ...]]: ...


class ImageText(Protocol):
    """For each word how well it fits the picture, adding to 1 over the words."""

    def fit(self, picture: Pixels, words: Sequence[str]) -> list[float]: ...


class Inpainter(Protocol):
    """The picture with what the mask covers filled in."""

    def fill(self, picture: Pixels, mask: Pixels, prompt: str = "") -> Pixels: ...
