"""An exported LoRA in the host's own loader gives the core's clip with the LoRA merged."""

import importlib
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from kaleido_core import load_dit
from training.export import LORA_FILE, Origin, main, save_lora
from training.lora import LoRAConfig, add_lora, lora_state

from .conftest import Pack, needs_host
from .test_graph import ROUNDING, core_latent, distance, references_node, sample_node


@pytest.fixture(scope="module")
def lora_file(tmp_path_factory) -> Path:
    """What ``training.export`` makes of a run on the embedded model."""
    folder = tmp_path_factory.mktemp("loras")
    dit = load_dit("tiny", dtype=torch.float32)
    for parameter in add_lora(dit, LoRAConfig(8, 16.0, ("all",)), torch.Generator().manual_seed(0)):
        torch.nn.init.normal_(parameter, std=0.03, generator=torch.Generator().manual_seed(1))
    save_lora(folder / "run" / LORA_FILE, lora_state(dit), Origin("kaleido_tiny_dit.safetensors", 3))
    assert main([str(folder / "run"), str(folder / "toy.safetensors"), "--dtype", "fp32"]) == 0
    return folder / "toy.safetensors"


@needs_host
@pytest.mark.parametrize("strength", [1.0, -0.5])
def test_the_stock_loader_gives_the_merged_cores_latent(
    pack: Pack, demo, pictures, lora_file: Path, strength: float, caplog
):
    folders: Any = importlib.import_module("folder_paths")
    stock: Any = importlib.import_module("nodes")
    folders.add_model_folder_path("loras", str(lora_file.parent))
    model, positive, negative, latent, _ = references_node(pack, demo, pictures[:2])
    with caplog.at_level(logging.WARNING):
        (changed,) = stock.LoraLoaderModelOnly().load_lora_model_only(model, lora_file.name, strength)
    assert not [record for record in caplog.records if "lora" in record.getMessage().lower()]
    made = pack.normalised(sample_node(pack, changed, positive, negative, latent))
    assert distance(made, core_latent(pictures[:2], 1, loras=(f"{lora_file}:{strength}",))) <= ROUNDING
    assert distance(made, core_latent(pictures[:2], 1)) > 0.01
