"""Grounding DINO: finds what words ask for."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from .kinds import Found, Pixels
from .local import on_device, read_pair

BOX, TEXT = 0.25, 0.25  # scores from which a box, and a word of it, count
ANYTHING = ("person", "animal", "toy", "vehicle", "object")  # what is asked for without words


class GroundingDino:
    """A ``Detector`` by words; a label is the word that was asked for."""

    def __init__(self, folder: Path) -> None:
        self._net, self._processor = read_pair(folder, "AutoModelForZeroShotObjectDetection")

    @torch.no_grad()
    def find(self, picture: Pixels, words: Sequence[str] = ()) -> list[Found]:
        words = [word.lower() for word in words] or list(ANYTHING)
        inputs = self._processor(images=Image.fromarray(picture), text=". ".join(words) + ".", return_tensors="pt")
        outputs = self._net(**on_device(inputs, self._net))
        (found,) = self._processor.post_process_grounded_object_detection(
            outputs, inputs["input_ids"], threshold=BOX, text_threshold=TEXT, target_sizes=[picture.shape[:2]]
        )
        labels = found.get("text_labels", found["labels"])
        rows = zip(labels, found["boxes"].tolist(), found["scores"].tolist(), strict=True)
        return [Found(_asked(str(label), words), tuple(box), score) for label, box, score in rows]


def _asked(label: str, words: Sequence[str]) -> str:
    """The word whose parts the label has; the label itself where it mixes several."""
    parts = set(label.lower().split())
    fitting = [word for word in words if parts & set(word.split())]
    return fitting[0] if len(fitting) == 1 else label
