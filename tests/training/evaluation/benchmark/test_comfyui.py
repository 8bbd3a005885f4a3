"""Beside ComfyUI itself, where KALEIDO_COMFYUI_DIR names a checkout."""

import json
import os
import subprocess
import sys

import pytest
import torch

from training.evaluation.benchmark.comfyui import comfyui
from training.evaluation.benchmark.comfyui_caps import comfyui_caps
from training.evaluation.benchmark.host import open_host
from training.evaluation.benchmark.measure import Bench, Note
from training.evaluation.benchmark.scale import TINY

COMFYUI = os.environ.get("KALEIDO_COMFYUI_DIR")


@pytest.mark.parametrize("part", [comfyui, comfyui_caps])
def test_without_a_checkout_it_says_what_to_give(part):
    (row,) = part(Bench(TINY, torch.device("cpu")))
    assert isinstance(row, Note) and "--comfyui" in row.text


def test_a_folder_without_comfyui_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no folder comfy"):
        open_host(tmp_path, torch.device("cpu"))


@pytest.mark.skipif(not COMFYUI, reason="KALEIDO_COMFYUI_DIR is not set")
def test_the_hosts_model_as_our_nodes_make_it_computes_what_ours_does(tmp_path, root):
    command = [sys.executable, "-m", "training.evaluation.benchmark", str(tmp_path), "--scale", "tiny"]
    subprocess.run([*command, "--parts", "comfyui,vae", "--comfyui", str(COMFYUI)], cwd=root, check=True)
    rows = {row["name"]: row for row in json.loads((tmp_path / "comfyui.json").read_text())["rows"]}
    assert rows["ComfyUI's own, without our nodes"]["error"] is None
    for name in ("ComfyUI, our positions", "ComfyUI, our positions and attention"):
        assert rows[name]["cost"]["seconds"] > 0 and rows[name]["error"] < 2e-2, "bfloat16 in another order"
    coded = {row["name"] for row in json.loads((tmp_path / "vae.json").read_text())["rows"]}
    assert {"encode, ComfyUI", "decode, ComfyUI"} <= coded
