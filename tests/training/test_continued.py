"""From Wan's text to video, which never saw a reference, to weights that say they are Kaleido's."""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from kaleido_core import DiTConfig, KaleidoDiT, load_dit
from training import export, train
from training.config import ModelConfig, OptimizerConfig, RunConfig, ScheduleConfig
from training.config_file import write_toml

from .small_run import small_config, write_cache

WAN = DiTConfig(2, 128, 1, 64, 16)  # a head 128 wide, as in Wan's files, which do not say it


def test_wans_weights_learn_references_and_come_out_as_kaleidos(tmp_path: Path):
    write_cache(tmp_path / "cache")
    torch.manual_seed(0)
    wan = tmp_path / "wan2.1_t2v.safetensors"
    before = {name: value.clone() for name, value in KaleidoDiT(WAN).state_dict().items()}
    save_file(before, wan)
    config = small_config(
        tmp_path,
        run=RunConfig(str(tmp_path / "run"), 2, batch=4, log_every=1),
        model=ModelConfig(str(wan), "full", "fp32"),
        optimizer=OptimizerConfig(lr=1e-3),
        schedule=ScheduleConfig(warmup_steps=0),
    )
    (tmp_path / "config.toml").write_text(write_toml(config), encoding="utf-8")
    assert train.main([str(tmp_path / "config.toml")]) == train.DONE
    out = tmp_path / "kaleido.safetensors"
    assert export.main([str(tmp_path / "run"), str(out), "--dtype", "fp32"]) == export.DONE
    with safe_open(out, "pt") as file:
        said = json.loads(file.metadata()["kaleido"])
    assert said["is_kaleido"] is True and said["source"].endswith("model.safetensors")
    learned = load_dit(out).state_dict()
    assert learned.keys() == before.keys() == load_file(wan).keys()
    moved = {name for name, value in before.items() if not torch.equal(value, learned[name])}
    assert "blocks.1.self_attn.q.weight" in moved and "patch_embedding.weight" in moved
