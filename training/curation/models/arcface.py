"""ArcFace: whose face it is, by a model in ONNX; dlib finds the faces."""

from pathlib import Path

import numpy as np

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
        self._input = self._session.get_inputs()[0].name

    def faces(self, picture: Pixels) -> list[Face]:
        picture = np.ascontiguousarray(picture)
        boxes, scores, _ = self._detector.run(picture, 0, 0.0)
        found = []
        for box, score in zip(boxes, scores, strict=True):
            sides = (float(box.left()), float(box.top()), float(box.right()), float(box.bottom()))
            points = self._landmarks(picture, box)
            marks = np.array([(points.part(n).x, points.part(n).y) for n in range(5)], np.float32)
            found.append(Face(sides, score_of(score), self._identity(picture, marks)))
        return found

    def _identity(self, picture: Pixels, marks: np.ndarray) -> Vector:
        """``marks``: dlib's five points, the corners of one eye, those of the other, and below the nose."""
        cv2 = load("cv2", "opencv-python-headless")
        eyes = sorted([marks[:2].mean(0), marks[2:4].mean(0)], key=lambda eye: eye[0])
        matrix, _ = cv2.estimateAffinePartial2D(np.array([*eyes, marks[4]]), np.array(EYES_AND_NOSE, np.float32))
        face = cv2.warpAffine(picture, matrix, (SIDE, SIDE)).astype(np.float32) / 127.5 - 1
        vector = self._session.run(None, {self._input: face.transpose(2, 0, 1)[None]})[0][0]
        return vector / max(float(np.linalg.norm(vector)), 1e-6)

    def likeness(self, one: Vector, other: Vector) -> float:
        return float(1 / (1 + np.exp(-STEEP * (float(one @ other) - SAME))))
