"""The text encoder under the same hard caps as the transformer."""

from collections.abc import Iterator

import torch

from kaleido_core.offloading.memory_plan import TEXT_WORK

from .measure import Bench, Row
from .scale import TEXT_ROWS, random_text_encoder
from .swap import whole, within


@torch.no_grad()
def text(bench: Bench) -> Iterator[Row]:
    """One prompt of full length: all on the card, then under each cap from pinned memory."""
    encoder = random_text_encoder(bench.scale.text, bench.device)
    ids = torch.arange(TEXT_ROWS, device=bench.device)[None] * 7 % bench.scale.text.vocab_size
    mask = torch.ones_like(ids)
    task, row = whole("text encoder", encoder, lambda model: model(ids, mask), TEXT_WORK, bench.device)
    yield row
    encoder.cpu()
    for cap in bench.scale.caps:
        yield within(task, encoder, cap, "pinned", bench.device)
