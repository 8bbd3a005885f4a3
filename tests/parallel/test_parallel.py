"""A model shared by 2 and 4 processes, through gloo, against one process."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return held.getsockname()[1]


@pytest.fixture(scope="module", params=[2, 4])
def seen(request, root: Path, tmp_path_factory) -> dict:
    """What the ranks of ``worker.py`` have seen."""
    result = tmp_path_factory.mktemp("ranks") / "seen.json"
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(request.param)}
    words = [sys.executable, "-m", "tests.parallel.worker", str(result)]
    ranks = [
        subprocess.Popen(words, cwd=root, env={**os.environ, **shared, "RANK": str(rank), "OMP_NUM_THREADS": "1"})
        for rank in range(request.param)
    ]
    try:
        assert [rank.wait(timeout=120) for rank in ranks] == [0] * request.param
    finally:
        for rank in ranks:
            rank.kill()
    return json.loads(result.read_text())


@pytest.mark.parametrize("tokens", ["even", "uneven", "few"])
def test_velocities_are_those_of_one_process(seen, tokens: str):
    assert seen["errors"][f"velocity {tokens}"] < 1e-5


@pytest.mark.parametrize("tokens", ["even", "uneven"])
def test_gradients_averaged_over_ranks_are_those_of_one_process(seen, tokens: str):
    assert seen["errors"][f"gradients {tokens}"] < 1e-5


def test_a_lora_learns_the_same_through_checkpointed_visitors(seen):
    assert seen["errors"]["gradients lora"] < 1e-5


def test_a_lora_learns_the_same_with_weights_cut_by_fsdp(seen):
    assert seen["errors"]["gradients sharded"] < 1e-5


def test_branches_on_two_ranks_make_the_clip_of_one(seen):
    assert seen["errors"]["guided"] < 1e-5


def test_heads_that_do_not_divide_and_step_caches_are_refused(seen):
    heads, cache = seen["refusals"]
    assert "3 heads do not divide" in heads and "between 1, 3 ranks" in heads
    assert "step cache" in cache
