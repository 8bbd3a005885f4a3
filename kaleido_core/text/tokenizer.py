"""Prompts to token ids, as UMT5 was trained (SPEC 6)."""

import html
import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import DataError, warn_once

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

MAX_TOKENS = 512


def clean_text(text: str) -> str:
    """Mend broken encodings, unescape HTML twice and fold all white space to single spaces."""
    import ftfy

    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r"\s+", " ", text.strip()).strip()


class Tokenizer:
    """A SentencePiece model with an end mark behind each text; ``length`` rows, padded with id 0."""

    def __init__(self, processor: "SentencePieceProcessor", length: int = MAX_TOKENS):
        self.processor, self.length = processor, length

    @classmethod
    def from_bytes(cls, model: bytes, length: int = MAX_TOKENS) -> "Tokenizer":
        from sentencepiece import SentencePieceProcessor

        try:
            return cls(SentencePieceProcessor(model_proto=model), length)
        except RuntimeError as error:
            raise DataError(
                f"{len(model)} bytes that are no SentencePiece model; we need the text encoder's spiece.model. "
                "Download it again."
            ) from error

    @classmethod
    def from_file(cls, path: Path, length: int = MAX_TOKENS) -> "Tokenizer":
        if not path.is_file():
            raise DataError(f"{path} is not a file; the tokenizer is a SentencePiece model such as spiece.model.")
        return cls.from_bytes(path.read_bytes(), length)

    def __call__(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Cleaned, cut to fit with a warning, and padded: int64 ids ``[B L]`` and mask ``[B L]`` (1 = real)."""
        ids = torch.zeros(len(texts), self.length, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, text in enumerate(texts):
            words = self.processor.encode(clean_text(text))
            if len(words) >= self.length:
                warn_once("text", f"A prompt of {len(words)} tokens is cut to {self.length - 1}: {text[:40]!r} ...")
            tokens = words[: self.length - 1] + [self.processor.eos_id()]
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
        return ids, mask
