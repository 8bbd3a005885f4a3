"""Two processes, or four, learn what one does."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from training.config import ParallelConfig
from training.train import train

from .ranks_worker import CASES, FOUR, config_of
from .small_run import samples, small_dit, write_cache

LAUNCH = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


def launch(root: Path, folder: Path, steps: int, cases: list[str], count: int = 2) -> None:
    words = [sys.executable, *LAUNCH, str(count), "-m", "tests.training.ranks_worker", str(folder), str(steps), *cases]
    done = subprocess.run(words, cwd=root, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def shared(root: Path, tmp_path_factory) -> Path:
    """Every case, three steps by two processes, or by four."""
    folder = tmp_path_factory.mktemp("ranks")
    write_cache(folder / "cache")
    launch(root, folder, 3, [case for case in CASES if case != FOUR])
    launch(root, folder, 3, [FOUR], count=4)
    return folder


def run_alone(case: str, folder: Path, steps: int, into: Path) -> None:
    config = config_of(case, folder, steps)
    config = replace(config, run=replace(config.run, folder=str(into)), parallel=ParallelConfig())
    assert train(config, samples(config), samples(config), small_dit())


def check_logs(one: Path, other: Path, count: int, rel: float = 2e-4) -> None:
    first, second = (
        [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()] for folder in (one, other)
    )
    assert len(first) == count
    for ours, theirs in zip(first, second, strict=True):
        names = [name for name in ours if "loss" in name or name in ("norm", "lr", "damaged")]
        assert {name: ours[name] for name in names} == pytest.approx({name: theirs[name] for name in names}, rel=rel)


@pytest.mark.parametrize("case", CASES)
def test_losses_gradients_and_held_out_losses_are_those_of_one_process(shared, tmp_path, case):
    half = case.endswith("bf16")
    run_alone(case, shared, 3, tmp_path)
    check_logs(tmp_path, shared / case, 3 + 1, rel=1e-3 if half else 2e-4)
    name = "lora.safetensors" if case.startswith("lora") else "model.safetensors"
    ours, theirs = (load_file(folder / "step-000003" / name) for folder in (tmp_path, shared / case))
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        torch.testing.assert_close(theirs[key], value, rtol=1e-2, atol=2e-5)


def test_a_run_goes_on_with_another_number_of_processes(root, shared, tmp_path):
    case, two_then_one = "full fsdp", tmp_path / "two then one"
    shutil.copytree(shared / case, two_then_one)
    run_alone(case, shared, 5, two_then_one)
    run_alone(case, shared, 5, tmp_path / "one")
    check_logs(tmp_path / "one", two_then_one, 5 + 2)

    other = tmp_path / "other"
    shutil.copytree(shared / "cache", other / "cache")
    run_alone(case, other, 3, other / case)
    launch(root, other, 5, [case])
    check_logs(tmp_path / "one", other / case, 5 + 2)
