"""CenterFace: faces from every side, also small and turned ones; dlib's network tells whose they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..boxes import overlap
from ..clip import Box
from ..packages import load
from .dlib_faces import IDENTITY, LANDMARKS, likeness
from .files import need
from .kinds import Face, Pixels, Vector

FILE = "centerface.onnx"
CELL = 4  # pixels of a cell of the network's maps
WHOLE = 32  # sides are multiples of this
SIDE = 640  # pixels of the longer side, at most: faces of 20 pixels are still found
LEAST = 0.5  # score of what is told
SAME_THING = 0.3  # overlap of two boxes of one face
OUTPUTS = ("537", "538", "539", "540")  # how sure, sizes, places, landmarks: as the file names them


@dataclass(frozen=True)
class Seen:
    """A face in a picture, before anyone asked whose it is."""

    box: Box
    score: float


class CenterFace:
    """A ``FaceModel``: CenterFace finds, dlib knows."""

    def __init__(self, folder: Path) -> None:
        dlib = load("dlib", "dlib-bin")
        cv2 = load("cv2", "opencv-python-headless")
        self._rectangle = dlib.rectangle
        self._landmarks = dlib.shape_predictor(str(need(folder.parent / "dlib" / LANDMARKS, "dlib")))
        self._identity = dlib.face_recognition_model_v1(str(need(folder.parent / "dlib" / IDENTITY, "dlib")))
        # OpenCV rather than onnxruntime: the file fixes the sides of pictures to 32, which OpenCV takes as an example.
        self._net = cv2.dnn.readNetFromONNX(str(need(folder / FILE, "centerface")))

    def faces(self, picture: Pixels) -> list[Face]:
        picture = np.ascontiguousarray(picture)
        return [Face(seen.box, seen.score, self._vector(picture, seen.box)) for seen in self.find(picture)]

    def find(self, picture: Pixels) -> list[Seen]:
        """The faces, the surest first."""
        cv2 = load("cv2", "opencv-python-headless")
        height, width = picture.shape[:2]
        share = min(1.0, SIDE / max(height, width))
        rows, columns = (max(WHOLE, round(side * share / WHOLE) * WHOLE) for side in (height, width))
        small = cv2.resize(picture, (columns, rows), interpolation=cv2.INTER_AREA).astype(np.float32)
        self._net.setInput(np.ascontiguousarray(small.transpose(2, 0, 1)[None]))
        sure, sizes, places, _ = (told[0] for told in self._net.forward(OUTPUTS))
        return without_repeats(decode(sure[0], sizes, places, width / columns, height / rows))

    def _vector(self, picture: Pixels, box: Box) -> Vector:
        points = self._landmarks(picture, self._rectangle(*(round(side) for side in square(box))))
        return np.array(self._identity.compute_face_descriptor(picture, points), np.float32)

    def likeness(self, one: Vector, other: Vector) -> float:
        return likeness(one, other)


def decode(sure: NDArray[Any], sizes: NDArray[Any], places: NDArray[Any], right: float, down: float) -> list[Seen]:
    """Boxes in the picture, from maps of cells: how sure ``[H W]``, log sizes and places ``[2 H W]``, rows first.

    ``right`` and ``down``: pixels of the picture for one of the network's.
    """
    found = []
    for row, column in zip(*np.nonzero(sure >= LEAST), strict=True):
        height, width = np.exp(sizes[:, row, column]) * CELL
        middle = (row + places[0, row, column] + 0.5) * CELL, (column + places[1, row, column] + 0.5) * CELL
        left, top = (middle[1] - width / 2) * right, (middle[0] - height / 2) * down
        box = (float(left), float(top), float(left + width * right), float(top + height * down))
        found.append(Seen(box, float(sure[row, column])))
    return found


def without_repeats(found: Sequence[Seen]) -> list[Seen]:
    kept: list[Seen] = []
    for seen in sorted(found, key=lambda seen: -seen.score):
        if all(overlap(seen.box, other.box) < SAME_THING for other in kept):
            kept.append(seen)
    return kept


def square(box: Box) -> Box:
    """As dlib's landmarks know faces: from the brows to the chin, as wide as high."""
    left, top, right, bottom = box
    side = 0.5 * (right - left + bottom - top)
    x, y = (left + right) / 2, top + 0.58 * (bottom - top)
    return (x - side / 2, y - side / 2, x + side / 2, y + side / 2)
