"""RapidOCR: lines of text. What cannot be read is none: fire and faces look like letters to a mere finder."""

from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kaleido_core.errors import ConfigError

from ..packages import load
from .kinds import Found, Pixels

PACKAGE = "rapidocr-onnxruntime>=1.4"
SURE, SHORTEST = 0.6, 2  # score and letters of a line
MOST = 8  # lines that are read, the largest ones: a page of credits has fifty


class RapidOCR:
    """A ``TextFinder`` from the package rapidocr-onnxruntime, which brings its model."""

    def __init__(self, folder: Path) -> None:
        package = load("rapidocr_onnxruntime", PACKAGE)
        there = version("rapidocr-onnxruntime")
        if tuple(int(part) for part in there.split(".")[:2]) < (1, 4):  # pip takes 1.2.3 on Python 3.13
            raise ConfigError(
                f"rapidocr-onnxruntime {there} is installed; text is found by 1.4, which has no build for Python 3.13 "
                'and above. Use Python 3.12, or set models.text = "".'
            )
        self._engine = package.RapidOCR(intra_op_num_threads=1, inter_op_num_threads=1)

    def text(self, picture: Pixels) -> list[Found]:
        image = np.ascontiguousarray(picture[..., ::-1])
        boxes, _ = self._engine.text_det(image)
        if boxes is None or not len(boxes):
            return []
        largest = sorted((np.asarray(corners, np.float32) for corners in boxes), key=_area, reverse=True)[:MOST]
        lines, _ = self._engine.text_rec(self._engine.get_crop_img_list(image, largest), False)
        found = []
        for corners, (words, score, *_) in zip(largest, lines, strict=True):
            if len(words) >= SHORTEST and score >= SURE:
                (left, top), (right, bottom) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
                found.append(Found(words, (left, top, right, bottom), float(score)))
        return found


def _area(corners: NDArray[np.float32]) -> float:
    left, top, right, bottom = *corners.min(axis=0).tolist(), *corners.max(axis=0).tolist()
    return (right - left) * (bottom - top)
