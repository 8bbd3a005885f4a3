"""What stays on the disk, and what goes."""

import errno
import os
import stat
from pathlib import Path

import pytest
import torch
from torch import nn

from training import checkpoint
from training.checkpoint import Checkpoints, Progress
from training.config import CheckpointConfig, RunConfig
from training.distributed import Ranks
from training.export import LORA_FILE, find_weights
from training.optim import Average

from .small_run import run, small_config, write_cache

ALONE = Ranks(0, 1, torch.device("cpu"), 0, 1)


def save(folder: Path, keep: int, *steps: int) -> Checkpoints:
    """Checkpoints of one weight, one after the other."""
    weight = {"weight": nn.Parameter(torch.zeros(2))}
    checkpoints = Checkpoints(folder, keep, ALONE)
    for step in steps:
        progress = Progress(torch.optim.SGD(weight.values()), Average(weight, 0), weight, step)
        checkpoints.save(progress, "", "", lambda place: None)
    checkpoints.close()
    return checkpoints


def steps_in(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in folder.glob("step-*"))


def test_the_last_ones_stay_by_number_not_by_name(tmp_path):
    checkpoints = save(tmp_path, 2, 999_998, 999_999, 1_000_000)
    assert steps_in(tmp_path) == [999_999, 1_000_000]
    assert checkpoints.latest() == tmp_path / "step-1000000"


@pytest.mark.parametrize(("keep", "left"), [(1, [3]), (2, [3, 6]), (9, [2, 3, 4, 6])])
def test_after_going_back_the_newest_stays_whatever_its_number(tmp_path, keep, left):
    save(tmp_path, 3, 2, 4, 6)
    (tmp_path / "latest").write_text("step-000002\n")
    checkpoints = save(tmp_path, keep, 3)
    assert steps_in(tmp_path) == left and checkpoints.latest() == tmp_path / "step-000003"


def test_only_unfinished_checkpoints_are_swept_away_and_none_is_exported(tmp_path):
    for name in ("step-000004.tmp", "mine.tmp", "step-000002"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / LORA_FILE).write_bytes(b"")
    (tmp_path / "step-000002" / LORA_FILE).unlink()
    assert find_weights(tmp_path) == tmp_path, "those of an unfinished checkpoint are no weights"
    save(tmp_path, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.tmp", "step-000002"]


def test_windows_opens_no_folder_and_flushes_no_file_that_is_only_read(tmp_path, monkeypatch):
    opened: dict[int, tuple[str, int]] = {}
    flushed: list[str] = []
    open_, fsync = os.open, os.fsync

    def open_as_windows(path: Path, flags: int, *mode: int) -> int:
        if stat.S_ISDIR(os.stat(path).st_mode):
            raise PermissionError(errno.EACCES, "Permission denied")
        handle = open_(path, flags, *mode)
        opened[handle] = Path(path).name, flags
        return handle

    def fsync_as_windows(handle: int) -> None:
        name, flags = opened.pop(handle, ("torch's own", os.O_RDWR))
        if not flags & os.O_RDWR:
            raise OSError(errno.EBADF, "Bad file descriptor")
        flushed.append(name)
        fsync(handle)

    monkeypatch.setattr(checkpoint, "ON_WINDOWS", True)
    monkeypatch.setattr(checkpoint.os, "open", open_as_windows)
    monkeypatch.setattr(checkpoint.os, "fsync", fsync_as_windows)
    save(tmp_path, 1, 1)
    assert steps_in(tmp_path) == [1] and {"config.toml", "data.txt", "latest.part"} <= set(flushed)


def test_samples_that_changed_meanwhile_are_told_and_the_run_goes_on(tmp_path, caplog):
    write_cache(tmp_path / "cache", 6)
    short = RunConfig(str(tmp_path / "run"), 2, batch=2, seed=7)
    saves = CheckpointConfig(every=1)
    assert run(small_config(tmp_path, run=short, checkpoint=saves))
    assert run(small_config(tmp_path, run=short, checkpoint=saves))
    assert "has changed since" not in caplog.text
    write_cache(tmp_path / "cache", 7)
    assert run(small_config(tmp_path, run=RunConfig(str(tmp_path / "run"), 3, batch=2, seed=7), checkpoint=saves))
    assert f"{tmp_path / 'cache'} has changed since" in caplog.text and "step-000002" in caplog.text
