"""CLIP and SigLIP: how well words fit a picture."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from .kinds import Pixels, Vector
from .local import on_device, read_pair

PROMPT = "a photo of a {word}"


class Clip:
    """An ``ImageText`` and an ``Embedder``; the mask is not used, pictures come on white."""

    def __init__(self, folder: Path) -> None:
        self._net, self._processor = read_pair(folder, "AutoModel")

    @torch.no_grad()
    def fit(self, picture: Pixels, words: Sequence[str]) -> list[float]:
        prompts = [PROMPT.format(word=word) for word in words]
        inputs = self._processor(
            images=Image.fromarray(picture), text=prompts, return_tensors="pt", padding=True, truncation=True
        )
        scores = self._net(**on_device(inputs, self._net)).logits_per_image[0]
        return scores.float().softmax(0).tolist()

    @torch.no_grad()
    def embed(self, picture: Pixels, mask: Pixels | None = None) -> Vector:
        inputs = on_device(self._processor(images=Image.fromarray(picture), return_tensors="pt"), self._net)
        features = self._net.vision_model(**inputs).pooler_output[0].float()
        return torch.nn.functional.normalize(features, dim=0).cpu().numpy()
