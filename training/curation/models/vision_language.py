"""A vision-language model captions a clip and names its subjects."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from .kinds import Pixels
from .local import half, on_device, read_model, read_processor

LONGEST = 300  # tokens of an answer
ASK = (
    "These are frames of one video clip, in order. Describe in one or two sentences what is seen and what happens. "
    "Then name the people, animals and objects that one could cut out, with the very words of your description. "
    'Answer only with JSON: {"caption": "...", "subjects": ["...", "..."]}'
)


class VisionLanguage:
    """A ``Captioner`` by any model of transformers that takes several pictures in a chat, such as Qwen2.5-VL."""

    def __init__(self, folder: Path) -> None:
        self._net = read_model(folder, "AutoModelForImageTextToText", half())
        self._processor = read_processor(folder)

    @torch.no_grad()
    def caption(self, frames: Sequence[Pixels]) -> tuple[str, tuple[str, ...]]:
        pictures = [Image.fromarray(frame) for frame in frames]
        content = [*({"type": "image"} for _ in pictures), {"type": "text", "text": ASK}]
        prompt = self._processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        inputs = on_device(self._processor(text=[prompt], images=pictures, return_tensors="pt"), self._net)
        tokens = self._net.generate(**inputs, max_new_tokens=LONGEST, do_sample=False)
        answer = self._processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)[0]
        return read_answer(answer)


def read_answer(answer: str) -> tuple[str, tuple[str, ...]]:
    """Caption and words of a model's answer; words that the caption lacks are left out, also those of no JSON."""
    found = re.search(r"\{.*\}", answer, re.DOTALL)
    try:
        told = json.loads(found[0]) if found else {}
    except ValueError:
        told = {}
    caption, words = told.get("caption"), told.get("subjects", [])
    if not isinstance(caption, str) or not isinstance(words, list):
        return "", ()
    return caption, tuple(word for word in words if isinstance(word, str) and word and word in caption)
