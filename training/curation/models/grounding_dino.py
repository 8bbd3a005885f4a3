"""Grounding DINO: finds what words ask for."""

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from .kinds import Found, Pixels
from .local import on_device, read_model, read_processor

BOX, TEXT = 0.25, 0.25  # scores from which a box, and a word of it, count
ANYTHING = ("person", "animal", "toy", "vehicle", "object")  # what is asked for without words


class GroundingDino:
    """A ``Detector`` by words; a label is the word that was asked for."""

    def __init__(self, folder: Path) -> None:
        self._net = read_model(folder, "AutoModelForZeroShotObjectDetection")
        self._processor = read_processor(folder)

    @torch.no_grad()
    def find(self, picture: Pixels, words: Sequence[str] = ()) -> list[Found]:
        words = list(words) or list(ANYTHING)
        text = ". ".join(word.lower() for word in words) + "."
        inputs = self._processor(images=Image.fromarray(picture), text=text, return_tensors="pt")
        outputs = self._net(**on_device(inputs, self._net))
        (found,) = self._processor.post_process_grounded_object_detection(
            outputs, inputs["input_ids"], threshold=BOX, text_threshold=TEXT, target_sizes=[picture.shape[:2]]
        )
        labels = found.get("text_labels", found["labels"])
        rows = zip(labels, found["boxes"].tolist(), found["scores"].tolist(), strict=True)
        named = [(asked(str(label), words), box, score) for label, box, score in rows]
        return [Found(word, tuple(box), score) for word, box, score in named if word]


def asked(label: str, words: Sequence[str]) -> str:
    """The word that most of the label's parts belong to, as it was asked for; "" where none does.

    The model joins the parts of all words that fit a box: "white dog brown", or "dog [SEP]".
    """
    parts = _parts(label)
    fits = [len(parts & _parts(word)) / len(parts | _parts(word)) if parts else 0.0 for word in words]
    return words[fits.index(max(fits))] if max(fits, default=0.0) > 0 else ""


def _parts(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))
