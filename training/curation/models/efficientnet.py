"""EfficientNet-Lite0 on ImageNet: features that tell things apart, and its thousand classes."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..packages import load
from .files import need
from .kinds import Pixels, Vector

SIDE = 224
GREY = 124  # around the subject: nothing stands out
FILE = "efficientnet-lite0-57934424.pth"
# Of each stage: blocks, kernel, stride, expansion, channels out.
STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112),
          (4, 5, 2, 6, 192), (1, 3, 1, 6, 320))  # fmt: skip


class SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow does it: the odd pixel goes behind."""

    def forward(self, input: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        total = max((-(-input.shape[-1] // stride) - 1) * stride + kernel - input.shape[-1], 0)
        before = total // 2
        return super().forward(F.pad(input, (before, total - before) * 2))


class Block(nn.Module):
    """Widen, look around, narrow; added to what came in where shapes allow. Names are the weights' own."""

    def __init__(self, width: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = width * expansion
        if expansion > 1:
            self._expand_conv, self._bn0 = nn.Conv2d(width, inner, 1, bias=False), nn.BatchNorm2d(inner, 1e-3)
        self._depthwise_conv = SameConv(inner, inner, kernel, stride, groups=inner, bias=False)
        self._bn1 = nn.BatchNorm2d(inner, 1e-3)
        self._project_conv, self._bn2 = nn.Conv2d(inner, out, 1, bias=False), nn.BatchNorm2d(out, 1e-3)
        self.expands, self.adds = expansion > 1, stride == 1 and width == out

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        inner = F.relu6(self._bn1(self._depthwise_conv(inner)))
        out = self._bn2(self._project_conv(inner))
        return x + out if self.adds else out


class EfficientNetLite(nn.Module):
    """``[B 3 224 224]`` in -1..1 -> features ``[B 1280]``."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = SameConv(3, 32, 3, 2, bias=False), nn.BatchNorm2d(32, 1e-3)
        blocks, width = [], 32
        for count, kernel, stride, expansion, out in STAGES:
            for number in range(count):
                blocks.append(Block(width, out, kernel, stride if number == 0 else 1, expansion))
                width = out
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = nn.Conv2d(320, 1280, 1, bias=False), nn.BatchNorm2d(1280, 1e-3)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        return F.relu6(self._bn1(self._conv_head(x))).mean((2, 3))

    def classes(self, features: Tensor) -> Tensor:
        return self._fc(features)


class EfficientNet:
    """An ``Embedder``: the subject alone, on grey."""

    def __init__(self, folder: Path) -> None:
        torch.set_num_threads(1)
        self._net = EfficientNetLite().eval()
        weights = torch.load(need(folder / FILE, "efficientnet"), weights_only=True)
        self._net.load_state_dict(weights)

    @torch.no_grad()
    def embed(self, picture: Pixels, mask: Pixels | None = None) -> Vector:
        features = self._net(_prepare(picture, mask))[0].numpy()
        return features / max(float(np.linalg.norm(features)), 1e-6)

    @torch.no_grad()
    def classes(self, picture: Pixels, mask: Pixels | None = None) -> Tensor:
        """A score for each of ImageNet's thousand classes, in their order, before softmax."""
        return self._net.classes(self._net(_prepare(picture, mask)))[0]


def _prepare(picture: Pixels, mask: Pixels | None) -> Tensor:
    square = on_grey(picture, mask).astype(np.float32)
    return torch.from_numpy(((square - 127) / 128).transpose(2, 0, 1)[None])


def on_grey(picture: Pixels, mask: Pixels | None) -> Pixels:
    """The masked part in the middle of a grey square of 224 pixels; nothing of its surroundings."""
    cv2 = load("cv2", "opencv-python-headless")
    if mask is not None:
        share = (mask.astype(np.float32) / 255)[..., None]
        picture = (picture * share + GREY * (1 - share)).astype(np.uint8)
        rows, columns = np.nonzero(mask >= 128)
        if len(rows):
            picture = picture[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    height, width = picture.shape[:2]
    side = max(height, width)
    square = np.full((side, side, 3), GREY, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = picture
    return cv2.resize(square, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
