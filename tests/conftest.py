import functools
import json
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor, nn

from kaleido_core import DiTConfig, KaleidoDiT, TextConfig, UMT5Encoder, VAEConfig, WanVAE
from kaleido_core.cli import generate as command
from kaleido_core.errors import warn_once

from .cli_stage import Stage

ROOT = Path(__file__).parent.parent

torch.set_num_threads(1)  # a second thread only gets in the way of models this small


@pytest.fixture(autouse=True)
def _every_warning_is_new() -> Iterator[None]:
    """Warnings said once a process are said once a test."""
    warn_once.cache_clear()
    yield


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@functools.cache
def _decompressed(name: str) -> bytes:
    return lzma.decompress((ROOT / f"tests/golden/{name}.safetensors.xz").read_bytes())


class Golden:
    """Reference numbers of the official code; see ``golden/README.md``."""

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of one file, by ``case.name``; weights as float32, which is exact."""
        tensors = safetensors.torch.load(_decompressed(name))
        return {key: value.float() for key, value in tensors.items()} if "weights" in name else tensors

    def info(self, name: str) -> dict[str, Any]:
        """What the file says of its cases and settings."""
        return json.loads((ROOT / f"tests/golden/{name}.json").read_text())

    def references(self, tensors: dict[str, Tensor], case: str) -> tuple[Tensor, ...]:
        """A case's references as we hold them: ``[B 16 1 h w]`` each."""
        if f"{case}.refs" in tensors:
            return tuple(reference.unsqueeze(2) for reference in tensors[f"{case}.refs"].unbind(1))
        names = [f"{case}.ref{index}" for index in range(8)]
        return tuple(time_second(tensors[name]) for name in names if name in tensors)

    def dit(self, name: str) -> KaleidoDiT:
        """The tiny official transformer of ``dit_small`` or ``dit_h128``, in float32."""
        sizes = self.info(f"{name}_cases")["config"]
        config = DiTConfig(
            num_layers=sizes["layers"],
            width=sizes["hidden"],
            num_heads=sizes["heads"],
            mlp_width=sizes["ffn"],
            text_width=sizes["text_dim"],
            frequency_width=sizes["time_freq_dim"],
        )
        return _loaded(KaleidoDiT(config), self.tensors(f"{name}_weights_wan"))

    def vae(self) -> WanVAE:
        return _loaded(WanVAE(VAEConfig(base_width=8)), self.tensors("vae_weights"))

    def text_encoder(self, weights: str, sizes: dict[str, Any]) -> UMT5Encoder:
        config = TextConfig(
            vocab_size=sizes["vocab"],
            width=sizes["dim"],
            attention_width=sizes["dim_attn"],
            mlp_width=sizes["ffn"],
            num_heads=sizes["heads"],
            num_layers=sizes["layers"],
            num_buckets=sizes["buckets"],
        )
        return _loaded(UMT5Encoder(config), self.tensors(weights))


Module = TypeVar("Module", bound=nn.Module)


def _loaded(module: Module, weights: dict[str, Tensor]) -> Module:
    module.load_state_dict(weights)
    return module.eval().requires_grad_(False)


def time_second(latent: Tensor) -> Tensor:
    """The goldens' ``[B T C H W]`` -> our ``[B C T H W]``, and back."""
    return latent.transpose(1, 2)


@pytest.fixture(scope="session")
def golden() -> Golden:
    return Golden()


@pytest.fixture
def stage(monkeypatch, tmp_path: Path) -> Stage:
    """The command line without its model, in a folder with two pictures."""
    stage = Stage()
    monkeypatch.setattr(command, "load_models", stage.load_models)
    monkeypatch.setattr(command, "render", stage.render)
    monkeypatch.chdir(tmp_path)
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (20, 30), colour).save(name)
    return stage
