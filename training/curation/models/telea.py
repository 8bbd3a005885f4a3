"""OpenCV's inpainting: good for small holes, smears in large ones."""

import numpy as np

from ..packages import load
from .kinds import Pixels

REACH = 5.0  # pixels that it looks around


class Telea:
    """An ``Inpainter`` that reads no prompt."""

    def fill(self, picture: Pixels, mask: Pixels, prompt: str = "") -> Pixels:
        cv2 = load("cv2", "opencv-python-headless")
        hole = (mask >= 128).astype(np.uint8)
        return cv2.inpaint(np.ascontiguousarray(picture), hole, REACH, cv2.INPAINT_TELEA)
