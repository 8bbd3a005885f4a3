"""U2-Netp: the thing that stands out in a box, as a soft mask."""

from pathlib import Path

import numpy as np

from ..boxes import grown, whole
from ..clip import Box
from ..packages import load
from .files import onnx_session
from .kinds import Pixels

SIDE = 320
MARGIN = 0.08  # of the box, that the model sees around it
MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class U2Netp:
    """A ``Segmenter`` for one box at a time; it knows nothing of other frames."""

    def __init__(self, folder: Path) -> None:
        self._session = onnx_session(folder / "u2netp.onnx", "u2netp")
        self._input = self._session.get_inputs()[0].name

    def mask(self, picture: Pixels, box: Box) -> Pixels:
        cv2 = load("cv2", "opencv-python-headless")
        height, width = picture.shape[:2]
        left, top, right, bottom = whole(grown(box, MARGIN, height, width))
        small = cv2.resize(picture[top:bottom, left:right], (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        small = small.astype(np.float32) / max(float(small.max()), 1.0)
        small = (small - np.array(MEAN, np.float32)) / np.array(SPREAD, np.float32)
        (found, *_) = self._session.run(None, {self._input: small.transpose(2, 0, 1)[None]})
        soft = found[0, 0]
        soft = (soft - soft.min()) / max(float(soft.max() - soft.min()), 1e-6)
        large = cv2.resize(soft * 255, (right - left, bottom - top), interpolation=cv2.INTER_CUBIC)
        mask = np.zeros((height, width), np.uint8)
        mask[top:bottom, left:right] = np.clip(large, 0, 255).astype(np.uint8)
        return mask
