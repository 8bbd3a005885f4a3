"""A run that is interrupted, however and wherever, ends as one that was not."""

import copy
import json
import multiprocessing
import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kaleido_core import KaleidoDiT
from kaleido_core.errors import CheckpointError
from training.config import (
    CheckpointConfig,
    Config,
    MemoryConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    ScheduleConfig,
)
from training.config_file import read_config
from training.train import STOPPED, train

from .small_run import SIZES, run, samples, small_config, write_cache

fork = multiprocessing.get_context("fork")
STEPS = 40


def config_of(folder: Path, cache: Path, **sections: object) -> Config:
    usual = {
        "run": RunConfig(str(folder), STEPS, batch=2, seed=7, log_every=1),
        "checkpoint": CheckpointConfig(every=1, keep=2, weights=False),
    }
    return small_config(cache.parent, **(usual | sections))


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    return write_cache(tmp_path_factory.mktemp("data") / "cache")


def final(folder: Path) -> dict[str, torch.Tensor]:
    """Every number that a finished run leaves."""
    (state,) = (folder / f"step-{STEPS:06}" / "state").iterdir()
    return load_file(state)


def losses(folder: Path) -> list[tuple[int, float]]:
    lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [(line["step"], line["loss"]) for line in lines]


def same(one: Path, other: Path) -> bool:
    first, second = final(one), final(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def kill_at(config: Config, goal: int, seconds: float) -> int:
    """Go on with a run, and kill it some ``seconds`` after step ``goal``; the last step that it told of."""
    log = Path(config.run.folder, "log.jsonl")

    def told() -> int:
        """The last line may be half a line."""
        lines = log.read_text().split("\n")[:-1] if log.exists() else []
        return json.loads(lines[-1])["step"] if lines else 0

    child = fork.Process(target=run, args=(config,))
    child.start()
    while told() < goal and child.is_alive():
        time.sleep(0.001)
    time.sleep(seconds)
    assert child.pid is not None and child.is_alive(), "the run ended before it could be killed"
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    return told()


@pytest.mark.parametrize(("method", "wanted"), [("lora", 20), ("full", 5)])
def test_a_run_killed_at_random_points_ends_bit_for_bit_as_one_that_was_not(tmp_path, cache, method, wanted):
    model = ModelConfig("small", method, "fp32")  # pyright: ignore[reportArgumentType]
    saves = CheckpointConfig(every=1 if method == "lora" else 4, keep=2, weights=False)
    whole, broken = (config_of(tmp_path / name, cache, model=model, checkpoint=saves) for name in ("whole", "broken"))
    assert run(whole)
    chance = random.Random(method)
    # As far as it must have come before: not a time, which on a busy machine is always the same step.
    goals = sorted(chance.choices(range(1, STEPS - 8), k=wanted))  # one that comes again kills a run that begins
    reached = [kill_at(broken, goal, chance.uniform(0, 0.03)) for goal in goals]
    assert len(set(reached)) > wanted // 2 and max(reached) > STEPS // 2, reached
    child = fork.Process(target=run, args=(broken,))
    child.start()
    child.join()
    assert child.exitcode == 0
    assert same(tmp_path / "whole", tmp_path / "broken")
    assert losses(tmp_path / "whole") == losses(tmp_path / "broken")
    assert len(list((tmp_path / "broken").glob("step-*"))) == 2, "older checkpoints are gone"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_asked_to_stop_saves_and_goes_on_later(tmp_path, cache, number):
    whole, broken = (
        config_of(tmp_path / name, cache, checkpoint=CheckpointConfig(every=1000)) for name in ("whole", "broken")
    )
    assert run(whole)
    child = fork.Process(target=lambda: os._exit(0 if run(broken) else STOPPED))
    child.start()
    while not (tmp_path / "broken" / "log.jsonl").exists():
        time.sleep(0.01)
    assert child.pid is not None
    os.kill(child.pid, number)
    child.join()
    assert child.exitcode == STOPPED
    (saved,) = (tmp_path / "broken").glob("step-*")
    assert 1 <= int(saved.name.removeprefix("step-")) < STEPS
    assert run(broken) and same(tmp_path / "whole", tmp_path / "broken")


def test_a_run_does_not_go_on_with_settings_that_would_learn_something_else(tmp_path, cache):
    short = RunConfig(str(tmp_path), 2, batch=2, seed=7)
    assert run(config_of(tmp_path, cache, run=short))
    changed = OptimizerConfig(lr=2e-3, ema=0.9)
    with pytest.raises(CheckpointError, match=r"optimizer.lr: 0.001 -> 0.002"):
        run(config_of(tmp_path, cache, run=short, optimizer=changed))
    with pytest.raises(CheckpointError, match=r"run.steps: 2 -> 3"):
        run(config_of(tmp_path, cache, run=replace(short, steps=3), schedule=ScheduleConfig(kind="cosine")))
    assert run(config_of(tmp_path, cache, run=replace(short, steps=3), memory=MemoryConfig("rows", True, 0)))


def test_the_saved_config_is_the_whole_one(tmp_path, cache):
    config = config_of(tmp_path, cache, run=RunConfig(str(tmp_path), 1))
    assert run(config)
    assert read_config(tmp_path / "step-000001" / "config.toml") == config


@pytest.mark.parametrize("name", ["adafactor", "adamw8bit"])
@torch.compiler.set_stance("force_eager")  # compiling takes a minute
def test_other_optimizers_go_on_too(tmp_path, cache, name):
    if name == "adamw8bit":
        pytest.importorskip("torchao")
    whole, broken = (
        config_of(tmp_path / folder, cache, model=ModelConfig("small", "full", "fp32"), optimizer=OptimizerConfig(name))
        for folder in ("whole", "broken")
    )
    dit = KaleidoDiT(replace(SIZES, mlp_width=160))  # the least that is kept in eight bits has 4096 numbers
    steps = [replace(config, run=replace(config.run, steps=4)) for config in (whole, broken)]
    assert train(steps[0], samples(steps[0]), None, copy.deepcopy(dit))
    for stop in (2, 4):
        part = replace(broken, run=replace(broken.run, steps=stop))
        assert train(part, samples(part), None, copy.deepcopy(dit))
    first, second = (
        load_file(next((tmp_path / folder / "step-000004" / "state").iterdir())) for folder in ("whole", "broken")
    )
    assert any("codes" in key for key in first) is (name == "adamw8bit")
    assert all(torch.equal(first[key], second[key]) for key in first)
