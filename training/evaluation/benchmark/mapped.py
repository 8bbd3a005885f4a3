"""The transformer from a file that main memory need not hold, as on a machine of little memory."""

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from kaleido_core import load_dit
from kaleido_core.checkpoints.save import save_weights

from .measure import Bench, Row, settle
from .swap import whole_transformer, within


@torch.no_grad()
def mapped(bench: Bench) -> Iterator[Row]:
    """All on the card; then under the hardest cap, the file first read from the disk, later from what is cached.

    The process's own main memory, in the row, is what such a machine must have; the rest is the system's cache.
    """
    with TemporaryDirectory(prefix="kaleido-benchmark-") as folder:
        task, row, dit = whole_transformer(bench)
        yield row
        file = Path(folder) / "weights.safetensors"
        save_weights(file, dit.state_dict())
        del dit
        settle(bench.device)
        forget(file)
        yield within(task, load_dit(file), min(bench.scale.caps), "mapped", bench.device)


def forget(file: Path) -> None:
    """Let the system's cache drop a file, where it takes such advice."""
    if hasattr(os, "posix_fadvise"):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
