"""DINOv2: pictures of one thing lie near each other."""

from pathlib import Path

import torch
from PIL import Image

from .efficientnet import on_grey
from .kinds import Pixels, Vector
from .local import on_device, read_pair


class Dino:
    """An ``Embedder``: the first token's features of the subject alone, on grey."""

    def __init__(self, folder: Path) -> None:
        self._net, self._processor = read_pair(folder, "AutoModel", "AutoImageProcessor")

    @torch.no_grad()
    def embed(self, picture: Pixels, mask: Pixels | None = None) -> Vector:
        inputs = self._processor(images=Image.fromarray(on_grey(picture, mask)), return_tensors="pt")
        features = self._net(**on_device(inputs, self._net)).last_hidden_state[0, 0].float()
        return torch.nn.functional.normalize(features, dim=0).cpu().numpy()
