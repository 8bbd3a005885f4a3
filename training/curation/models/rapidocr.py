"""RapidOCR's finder of text: boxes of lines, whatever they say."""

import logging
from pathlib import Path

import numpy as np

from ..packages import load
from .kinds import Found, Pixels


class RapidOCR:
    """A ``TextFinder`` from the package rapidocr-onnxruntime, which brings its model."""

    def __init__(self, folder: Path) -> None:
        package = load("rapidocr_onnxruntime", "rapidocr-onnxruntime")
        logging.getLogger("root").setLevel(logging.WARNING)
        self._engine = package.RapidOCR(intra_op_num_threads=1, inter_op_num_threads=1)

    def text(self, picture: Pixels) -> list[Found]:
        boxes, _ = self._engine.text_det(np.ascontiguousarray(picture[..., ::-1]))
        found = []
        for corners in [] if boxes is None else boxes:
            left, top = np.min(corners, axis=0)
            right, bottom = np.max(corners, axis=0)
            found.append(Found("text", (float(left), float(top), float(right), float(bottom)), 1.0))
        return found
