"""Weights files in every layout, made from the goldens."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kaleido_core.checkpoints.save import save_weights
from kaleido_core.config import DiTConfig

Tensors = dict[str, Tensor]


@pytest.fixture(scope="session")
def stored(golden: Any) -> Callable[[str], Tensors]:
    """A golden's weights in the bfloat16 that its file has; ``golden`` gives them as float32."""
    return lambda name: {key: tensor.bfloat16() for key, tensor in golden.tensors(name).items()}


@pytest.fixture(scope="session")
def real_keys(golden: Any) -> dict:
    return golden.info("real_model_keys")


@pytest.fixture(scope="session")
def small_config() -> DiTConfig:
    """The sizes of ``dit_small_weights_*``; its heads are 32 wide, which no shape tells."""
    return DiTConfig(num_layers=3, width=96, num_heads=3, mlp_width=160, text_width=64)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Save tensors as safetensors under the test's own folder."""

    def save(tensors: Tensors, name: str = "model.safetensors", metadata: dict[str, str] | None = None) -> Path:
        save_weights(tmp_path / name, tensors, metadata)
        return tmp_path / name

    return save


@pytest.fixture
def official_folder(tmp_path: Path, stored: Callable[[str], Tensors]) -> Path:
    """What SAT writes: ``latest`` names a folder with the states; the text encoder lies beside the DiT."""
    folder = tmp_path / "official"
    (folder / "1000").mkdir(parents=True)
    (folder / "latest").write_text("1000\n", encoding="utf-8")
    text = {f"conditioner.embedders.0.model.{key}": tensor for key, tensor in stored("t5_weights").items()}
    state = {"module": {**stored("dit_small_weights_sat"), **text}, "iteration": 1000}
    torch.save(state, folder / "1000" / "mp_rank_00_model_states.pt")
    return folder


@pytest.fixture(scope="session")
def deep_model(real_keys: dict) -> Tensors:
    """Every name of the real 14B DiT, 128 wide, with other numbers in each tensor."""
    shrink: dict[int, int] = {5120: 128, 13824: 256, 4096: 64, 30720: 768}
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for row in real_keys["dit"]["rows"]:
        shape = [shrink.get(int(size), int(size)) for size in row["shape_wan_14B"]]
        for block in range(real_keys["n_blocks"]) if "{i}" in row["wan"] else (0,):
            tensors[row["wan"].format(i=block)] = torch.randn(shape, generator=generator).bfloat16()
    return tensors
