"""SAM 2: the thing in a box."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..clip import Box
from .kinds import Pixels
from .local import read_model

MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Sam2:
    """A ``Segmenter`` for one box at a time. Pictures are prepared here: transformers' own way needs torchvision."""

    def __init__(self, folder: Path) -> None:
        self._net = read_model(folder, "Sam2Model")
        self._side: int = self._net.config.vision_config.backbone_config.image_size[0]

    @torch.no_grad()
    def mask(self, picture: Pixels, box: Box) -> Pixels:
        height, width = picture.shape[:2]
        shares = torch.tensor(box) / torch.tensor([width, height] * 2)
        boxes = (shares * self._side)[None, None].to(self._net.device, self._net.dtype)
        outputs = self._net(pixel_values=self._prepare(picture), input_boxes=boxes, multimask_output=False)
        logits = F.interpolate(outputs.pred_masks[0].float(), (height, width), mode="bilinear")
        return (logits[0, 0].sigmoid() * 255).round().byte().cpu().numpy()

    def _prepare(self, picture: Pixels) -> Tensor:
        """``[1 3 S S]``, stretched to a square."""
        pixels = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].float() / 255
        square = F.interpolate(pixels, (self._side, self._side), mode="bilinear", antialias=True)
        mean, spread = (torch.tensor(values)[:, None, None] for values in (MEAN, SPREAD))
        return ((square - mean) / spread).to(self._net.device, self._net.dtype)
