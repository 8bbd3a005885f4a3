"""ArcFace: whose face it is, by a model in ONNX; dlib finds the faces."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..packages import load
from .dlib_faces import LANDMARKS, score_of
from .files import need, onnx_session
from .kinds import Face, Pixels, Vector

FILE = "arcface.onnx"  # faces of 112 pixels in, RGB in -1..1
SIDE = 112
SAME, STEEP = 0.35, 12.0  # cosine at which a likeness is 0.5
EYES_AND_NOSE = ((38.3, 51.7), (73.5, 51.5), (56.0, 71.7))  # where these lie in the model's pictures


class ArcFace:
    """A ``FaceModel``: dlib's detector and landmarks, ``arcface.onnx`` in the same folder."""

    def __init__(self, folder: Path) -> None:
        dlib = load("dlib", "dlib-bin")
        self._detector = dlib.get_frontal_face_detector()
        self._landmarks = dlib.shape_predictor(str(need(folder / LANDMARKS, "arcface")))
        self._session = onnx_session(folder / FILE, "arcface")

    def faces(self, picture: Pixels) -> list[Face]:
        picture = np.ascontiguousarray(picture)
        boxes, scores, _ = self._detector.run(picture, 0, 0.0)
        found = []
        for box, score in zip(boxes, scores, strict=True):
            sides = (float(box.left()), float(box.top()), float(box.right()), float(box.bottom()))
            points = self._landmarks(picture, box)
            marks = np.array([(points.part(n).x, points.part(n).y) for n in range(5)], np.float32)
            found.append(Face(sides, score_of(score), identity(self._session, aligned(picture, marks))))
        return found

    def likeness(self, one: Vector, other: Vector) -> float:
        return float(1 / (1 + np.exp(-STEEP * (float(one @ other) - SAME))))


def identity(session: Any, face: Pixels) -> Vector:
    """The unit vector of an aligned face."""
    inputs = (face.astype(np.float32) / 127.5 - 1).transpose(2, 0, 1)[None]
    vector = session.run(None, {session.get_inputs()[0].name: inputs})[0][0]
    return vector / max(float(np.linalg.norm(vector)), 1e-6)


def aligned(picture: Pixels, marks: NDArray[np.floating]) -> Pixels:
    """The face as the model knows faces: turned, scaled and moved, so that eyes and nose come to their places.

    ``marks`` are dlib's five points: the corners of one eye, those of the other, and the end of the nose.
    """
    cv2 = load("cv2", "opencv-python-headless")
    eyes = sorted([marks[:2].mean(0), marks[2:4].mean(0)], key=lambda eye: eye[0])
    # As complex numbers, turning and scaling is one factor; least squares over the three points gives it.
    seen, wanted = (np.array(points) @ (1, 1j) for points in ([*eyes, marks[4]], EYES_AND_NOSE))
    away, place = seen - seen.mean(), wanted - wanted.mean()
    factor = (away.conj() @ place) / max(float((away.conj() @ away).real), 1e-6)
    shift = wanted.mean() - factor * seen.mean()
    matrix = np.array([[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]])
    return cv2.warpAffine(picture, matrix, (SIDE, SIDE))
