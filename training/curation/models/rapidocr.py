"""RapidOCR: lines of text. What cannot be read is none: fire and faces look like letters to a mere finder."""

from pathlib import Path

import numpy as np

from ..packages import load
from .kinds import Found, Pixels

SURE, SHORTEST = 0.6, 2  # score and letters of a line


class RapidOCR:
    """A ``TextFinder`` from the package rapidocr-onnxruntime, which brings its model."""

    def __init__(self, folder: Path) -> None:
        package = load("rapidocr_onnxruntime", "rapidocr-onnxruntime")
        self._engine = package.RapidOCR(intra_op_num_threads=1, inter_op_num_threads=1)

    def text(self, picture: Pixels) -> list[Found]:
        lines, _ = self._engine(np.ascontiguousarray(picture[..., ::-1]))
        found = []
        for corners, words, score in lines or []:
            left, top = np.min(corners, axis=0)
            right, bottom = np.max(corners, axis=0)
            if len(words) >= SHORTEST and score >= SURE:
                found.append(Found(words, (float(left), float(top), float(right), float(bottom)), float(score)))
        return found
