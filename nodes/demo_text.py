"""The embedded text encoder in the shape of the host's own, so that stock CLIP Text Encode works with it."""

from typing import Any

import torch
from torch import Tensor, nn

from ..kaleido_core import load_text_encoder, load_tokenizer
from ..kaleido_core.generate import TINY_CONTEXT_ROWS

NAME = "kaleido_tiny"
Tokens = dict[str, list[list[tuple[int, float]]]]  # what the host hands from one half to the other: id and weight


class DemoTokenizer:
    """Brackets for emphasis, as in ``(cat:1.2)``, mean nothing to this encoder and are read as text."""

    def __init__(self, embedding_directory: Any = None, tokenizer_data: Any = None):
        self.tokenizer = load_tokenizer("tiny")
        self.tokenizer.length = TINY_CONTEXT_ROWS

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **others: Any) -> Tokens:
        ids, _ = self.tokenizer([text])
        return {NAME: [[(number, 1.0) for number in ids[0].tolist()]]}

    def state_dict(self) -> dict[str, Tensor]:
        return {}


class DemoTextEncoder(nn.Module):
    """Context rows ``[1 64 128]``; the weights are small enough to stay where they are put."""

    disable_offload = True

    def __init__(self, device: torch.device | str, dtype: torch.dtype, model_options: Any = None):
        super().__init__()
        self.encoder = load_text_encoder("tiny", device=device, dtype=torch.float32)
        self.dtypes = {torch.float32}

    def set_clip_options(self, options: Any) -> None:
        """Layers cannot be skipped here."""

    def reset_clip_options(self) -> None:
        """See ``set_clip_options``."""

    def encode_token_weights(self, tokens: Tokens) -> tuple[Tensor, None]:
        device = next(self.encoder.parameters()).device
        ids = torch.tensor([[number for number, _ in row] for row in tokens[NAME]], device=device)
        with torch.no_grad():
            return self.encoder(ids, ids != 0), None

    def load_sd(self, state: dict[str, Tensor]) -> Any:
        return self.load_state_dict(state, strict=False)
