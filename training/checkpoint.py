"""What a run leaves on disk, from which it goes on bit for bit.

``FOLDER/step-000100/`` holds ``state/`` (torch's distributed checkpoint, as safetensors: any number of ranks can read
it), ``config.toml``, ``data.txt`` (the fingerprint of what was learned from), and ``lora.safetensors`` or
``model.safetensors`` for use. It is written beside the training, as ``step-000100.tmp``, and renamed when complete;
``latest`` names the newest. Nothing random is kept: every draw is a function of the seed and the step.
"""

import logging
import os
import shutil
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from torch.distributed import is_initialized
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save
from torch.distributed.tensor import DTensor

from kaleido_core.errors import CheckpointError

from .config import Config
from .config_file import differences, read_config
from .distributed import Ranks, barrier
from .export import UNFINISHED
from .optim import Average, set_rate

# One process is no mistake.
warnings.filterwarnings("ignore", "torch.distributed is disabled", module="torch.distributed.checkpoint")
logger = logging.getLogger("kaleido.training")

LATEST, STATE, CONFIG, DATA, STEP = "latest", "state", "config.toml", "data.txt", "step-"
ON_WINDOWS = os.name == "nt"
# What may change between a stop and a resume: it changes speed, memory or what is shown, not what is learned.
FREE = (
    "data.held_out",
    "run.folder",
    "run.log_every",
    "run.tensorboard",
    "memory.",
    "parallel.",
    "checkpoint.",
    "validation.",
)


@dataclass
class Progress:
    """All that changes while a run learns, besides its weights. ``damaged`` counts samples that were left out."""

    optimizer: torch.optim.Optimizer
    average: Average
    parameters: dict[str, torch.nn.Parameter]
    step: int = 0
    damaged: int = 0

    def tensors(self) -> dict[str, Tensor]:
        """Everything, as tensors that share memory with the run."""
        state = {f"model.{name}": p.detach() for name, p in self.parameters.items()}
        state |= {f"average.{name}": value for name, value in self.average.values.items()}
        for name, parameter in self.parameters.items():
            for key, value in self.optimizer.state[parameter].items():
                state |= _plain(f"optimizer.{name}.{key}", value)
        return state | {"step": torch.tensor(self.step), "damaged": torch.tensor(self.damaged)}

    def fill_optimizer(self) -> None:
        """Give the optimizer the state that it makes at its first step, without a change."""
        for parameter in self.parameters.values():
            parameter.grad = torch.zeros_like(parameter)
        set_rate(self.optimizer, 0.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def _plain(name: str, value: Tensor) -> dict[str, Tensor]:
    """A tensor by its name; an eight-bit optimizer's by its parts."""
    if type(value) is Tensor or isinstance(value, DTensor):
        return {name: value}
    parts, _ = value.__tensor_flatten__()  # pyright: ignore[reportAttributeAccessIssue]
    return {f"{name}.{part}": getattr(value, part) for part in parts}


class Checkpoints:
    """The checkpoints of one run's folder."""

    def __init__(self, folder: Path, keep: int, ranks: Ranks) -> None:
        self.folder, self._keep, self._ranks = folder, keep, ranks
        self._writing: tuple[Path, Future[object]] | None = None
        if ranks.first:
            folder.mkdir(parents=True, exist_ok=True)
            for rest in folder.glob(f"{STEP}*{UNFINISHED}"):
                shutil.rmtree(rest)
        barrier(ranks)

    def latest(self) -> Path | None:
        try:
            return self.folder / (self.folder / LATEST).read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return None

    def save(self, progress: Progress, config: str, data: str, write_weights: Callable[[Path], None]) -> None:
        """Begin to write; all ranks call it. ``data``: the fingerprint of what is learned from.

        ``write_weights`` fills the folder with files for use, at once.
        """
        self.finish()
        barrier(self._ranks)
        place = self.folder / f"{STEP}{progress.step:06}{UNFINISHED}"
        if self.latest() == place.with_suffix(""):
            return
        if self._ranks.first:
            shutil.rmtree(place, ignore_errors=True)
            (place / STATE).mkdir(parents=True)
            (place / CONFIG).write_text(config, encoding="utf-8")
            (place / DATA).write_text(data + "\n", encoding="utf-8")
        barrier(self._ranks)
        write_weights(place)
        writer = HuggingFaceStorageWriter(str(place / STATE), save_distributed=True)
        ranks, alone = self._ranks, self._ranks.count == 1
        saving = async_save(progress.tensors(), storage_writer=writer, process_group=ranks.files, no_dist=alone)
        self._writing = place, cast("Future[object]", saving)

    def poll(self) -> None:
        """Publish what has been written by now."""
        if self._writing and self._writing[1].done():
            self.finish()

    def finish(self) -> None:
        """Wait for what is being written, and publish it."""
        if self._writing is None:
            return
        place, saving = self._writing
        self._writing = None
        try:
            saving.result()
        except Exception as error:  # whatever a disk, a network or another rank may come up with
            raise CheckpointError(
                f"{place.with_suffix('')} could not be written: {error}. Make room, or write elsewhere; started again, "
                "the run goes on from the checkpoint before."
            ) from error
        if self._ranks.first:
            self._publish(place)

    def close(self) -> None:
        self.finish()

    def _publish(self, place: Path) -> None:
        for file in (*place.rglob("*"), place):
            _flush(file)
        final = place.with_suffix("")
        shutil.rmtree(final, ignore_errors=True)
        os.replace(place, final)
        pointer = self.folder / (LATEST + ".part")
        pointer.write_text(final.name + "\n", encoding="utf-8")
        _flush(pointer)
        os.replace(pointer, self.folder / LATEST)
        self._remove_old(final)
        logger.info("saved %s", final)

    def _remove_old(self, newest: Path) -> None:
        """All but ``newest`` and those of the most steps. After going back, ``newest`` may have the fewest."""
        steps = {path: path.name.removeprefix(STEP) for path in self.folder.glob(f"{STEP}*") if path != newest}
        others = sorted((path for path, step in steps.items() if step.isdecimal()), key=lambda path: int(steps[path]))
        for old in others[: max(0, len(others) + 1 - self._keep)]:
            shutil.rmtree(old)


def _flush(path: Path) -> None:
    """Have the disk keep a file, or a folder's list, through a power cut."""
    if ON_WINDOWS and path.is_dir():
        return  # Windows opens no folder, and flushes only what is open for writing
    handle = os.open(path, os.O_RDWR if ON_WINDOWS else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def resume(progress: Progress, place: Path, config: Config, data: str) -> None:
    """Fill ``progress`` from a checkpoint. Raises ``CheckpointError`` where ``config`` would learn something else.

    Other ``data`` (its fingerprint) is only warned of: damaged records are to be mended in the middle of a run.
    """
    changed = [line for line in differences(read_config(place / CONFIG), config) if not line.startswith(_free(config))]
    if changed:
        raise CheckpointError(
            f"{place} was begun with other settings: {'; '.join(changed)}. "
            "Go on with the old ones, or choose another run.folder."
        )
    if _other_data(place, data):
        logger.warning(
            "%s has changed since %s: samples come in another order than in a run that was never stopped. "
            "Where that matters, put the old files back.",
            config.data.cache,
            place,
        )
    progress.fill_optimizer()
    tensors = progress.tensors()
    load(tensors, storage_reader=HuggingFaceStorageReader(str(place / STATE)), no_dist=not is_initialized())
    progress.step, progress.damaged = int(tensors["step"]), int(tensors["damaged"])
    logger.info("going on from %s", place)


def _free(config: Config) -> tuple[str, ...]:
    """A constant rate can go on for longer; other curves are stretched over all steps."""
    return (*FREE, "run.steps") if config.schedule.kind == "constant" else FREE


def _other_data(place: Path, data: str) -> bool:
    try:
        return (place / DATA).read_text(encoding="utf-8").strip() != data
    except FileNotFoundError:  # of an earlier version
        return False
