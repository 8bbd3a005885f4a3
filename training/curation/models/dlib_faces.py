"""dlib: faces from the front, and 128 numbers that tell whose they are."""

import math
from pathlib import Path

import numpy as np

from ..packages import load
from .files import need
from .kinds import Face, Pixels, Vector

SAME = 0.5  # Euclidean distance of two vectors at which a likeness is 0.5; dlib's own threshold is 0.6
STEEP = 8.0
LANDMARKS, IDENTITY = "shape_predictor_5_face_landmarks.dat", "dlib_face_recognition_resnet_model_v1.dat"


class DlibFaces:
    """A ``FaceModel``. The detector sees faces from 80 pixels on, and misses profiles."""

    def __init__(self, folder: Path) -> None:
        dlib = load("dlib", "dlib-bin")
        self._detector = dlib.get_frontal_face_detector()
        self._landmarks = dlib.shape_predictor(str(need(folder / LANDMARKS, "dlib")))
        self._identity = dlib.face_recognition_model_v1(str(need(folder / IDENTITY, "dlib")))

    def faces(self, picture: Pixels) -> list[Face]:
        picture = np.ascontiguousarray(picture)
        boxes, scores, _ = self._detector.run(picture, 0, 0.0)
        found = []
        for box, score in zip(boxes, scores, strict=True):
            vector = self._identity.compute_face_descriptor(picture, self._landmarks(picture, box))
            sides = (float(box.left()), float(box.top()), float(box.right()), float(box.bottom()))
            found.append(Face(sides, score_of(score), np.array(vector, np.float32)))
        return found

    def likeness(self, one: Vector, other: Vector) -> float:
        return likeness(one, other)


def likeness(one: Vector, other: Vector) -> float:
    """From the distance of two vectors of dlib's network."""
    return 1 / (1 + math.exp(STEEP * (float(np.linalg.norm(one - other)) - SAME)))


def score_of(margin: float) -> float:
    """The detector's margin as a number from 0 to 1."""
    return 1 / (1 + math.exp(-2 * margin))
