"""CLIP and SigLIP: how well words fit a picture."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from .efficientnet import on_grey
from .kinds import Pixels, Vector
from .local import on_device, read_model, read_processor

PROMPT = "a photo of a {word}"


class Clip:
    """An ``ImageText`` and an ``Embedder`` of the subject alone, on grey."""

    def __init__(self, folder: Path) -> None:
        self._net = read_model(folder, "AutoModel")
        self._processor = read_processor(folder)

    @torch.no_grad()
    def fit(self, picture: Pixels, words: Sequence[str]) -> list[float]:
        prompts = [PROMPT.format(word=word) for word in words]
        # SigLIP was trained on words filled up to a fixed length, and scores badly without.
        padding = "max_length" if "siglip" in self._net.config.model_type else True
        inputs = self._processor(
            images=Image.fromarray(picture), text=prompts, return_tensors="pt", padding=padding, truncation=True
        )
        scores = self._net(**on_device(inputs, self._net)).logits_per_image[0]
        return scores.float().softmax(0).tolist()

    @torch.no_grad()
    def embed(self, picture: Pixels, mask: Pixels | None = None) -> Vector:
        inputs = self._processor(images=Image.fromarray(on_grey(picture, mask)), return_tensors="pt")
        features = self._net.get_image_features(**on_device(inputs, self._net)).pooler_output[0].float()
        return torch.nn.functional.normalize(features, dim=0).cpu().numpy()
