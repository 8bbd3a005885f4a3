"""DINOv2: pictures of one thing lie near each other."""

from pathlib import Path

import torch
from PIL import Image

from .efficientnet import on_grey
from .kinds import Pixels, Vector
from .local import on_device, read_model, read_processor


class Dino:
    """An ``Embedder``: the first token's features of the subject alone, on grey."""

    def __init__(self, folder: Path) -> None:
        self._net = read_model(folder, "AutoModel")
        self._processor = read_processor(folder, "AutoImageProcessor")

    @torch.no_grad()
    def embed(self, picture: Pixels, mask: Pixels | None = None) -> Vector:
        # Cropping, as the processors of these models do it, would cut the subject's ends off.
        inputs = self._processor(
            images=Image.fromarray(on_grey(picture, mask)), do_resize=False, do_center_crop=False, return_tensors="pt"
        )
        features = self._net(**on_device(inputs, self._net)).last_hidden_state[0, 0].float()
        return torch.nn.functional.normalize(features, dim=0).cpu().numpy()
