"""What a run tells: JSON lines, and TensorBoard where asked; losses by noise level."""

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kaleido_core.errors import ConfigError

from .distributed import Ranks, total

logger = logging.getLogger("kaleido.training")

BUCKETS = 5  # of noise levels; the loss of the noisiest is a fraction of the cleanest's
LOG = "log.jsonl"


class Log:
    """Lines of numbers, each with its step; silent unless on the first rank."""

    def __init__(self, folder: Path, ranks: Ranks, tensorboard: bool) -> None:
        self._path = folder / LOG if ranks.first else None
        self._make_board = _find_board() if tensorboard and ranks.first else None
        self._board: Any = None
        self.lacks_validation = False

    def rewind(self, step: int) -> None:
        """Forget what an interrupted run wrote after ``step``: it will be written again. Call it before ``write``.

        ``lacks_validation`` then says that what ``step`` itself was validated with, if it was, did not get here.
        """
        if self._path is None:
            return
        if self._make_board:
            self._board = self._make_board(str(self._path.parent / "tensorboard"), purge_step=step + 1)
        # The last line of a killed run may be half a line.
        text = self._path.read_text(encoding="utf-8") if self._path.exists() else ""
        lines = [line for line in text.splitlines() if line.endswith("}")]
        kept = [line for line in lines if json.loads(line)["step"] <= step]
        self.lacks_validation = not any(_is_validation(json.loads(line), step) for line in kept[-2:])
        temporary = self._path.with_suffix(".part")
        temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        os.replace(temporary, self._path)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        if self._path is None:
            return
        line = {"step": step, "time": round(time.time(), 1)} | {name: float(f"{v:.6g}") for name, v in values.items()}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        if self._board is not None:
            self._board.close()


def _is_validation(line: Mapping[str, float], step: int) -> bool:
    return line["step"] == step and "lr" not in line


def _find_board() -> Callable[..., Any]:
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError as error:
        raise ConfigError(
            f"[run] tensorboard needs the package tensorboard ({error}). Install it (pip install tensorboard) or "
            "set it to false: log.jsonl has the same numbers."
        ) from error
    return SummaryWriter


class Losses:
    """Sums of sample losses by noise level, until they are asked for."""

    def __init__(self) -> None:
        self._sums = torch.zeros(2, BUCKETS, dtype=torch.float64)  # losses, and how many

    def add(self, losses: Tensor, sigma: Tensor, weights: Tensor) -> None:
        """Each ``[B]`` on the CPU; a sample with weight 0 is left out."""
        bucket = (sigma * BUCKETS).long().clamp(0, BUCKETS - 1)
        for row, values in enumerate((losses.double() * weights, weights.double())):
            self._sums[row].index_add_(0, bucket, values.double())

    def take(self, ranks: Ranks) -> dict[str, float]:
        """The mean, and that of each bucket with samples, over all ranks; then begins anew."""
        sums, counts = total(self._sums, ranks)
        self._sums = torch.zeros_like(self._sums)
        if not counts.sum():
            return {}
        values = {"loss": (sums.sum() / counts.sum()).item()}
        for index in range(BUCKETS):
            if counts[index]:
                name = f"loss_sigma/{index / BUCKETS:.1f}-{(index + 1) / BUCKETS:.1f}"
                values[name] = (sums[index] / counts[index]).item()
        return values


def show(step: int, steps: int, values: Mapping[str, float]) -> None:
    """One line for people."""
    left = round((steps - step) * values["seconds"])
    clock = f"{left // 3600}:{left % 3600 // 60:02}:{left % 60:02}"
    loss = f"loss {values['loss']:.4f}" if "loss" in values else "no loss"
    norm = f", norm {values['norm']:.3g}" if "norm" in values else ""
    logger.info("step %d/%d: %s%s, %.2f s a step, %s left", step, steps, loss, norm, values["seconds"], clock)
