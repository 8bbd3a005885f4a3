"""The pack as ComfyUI loads it: on our doubles, or on the checkout that KALEIDO_COMFYUI_DIR names."""

import asyncio
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

ROOT = Path(__file__).parents[2]
DOUBLES = Path(__file__).parent / "doubles"
COMFYUI = os.environ.get("KALEIDO_COMFYUI_DIR")

needs_host = pytest.mark.skipif(not COMFYUI, reason="KALEIDO_COMFYUI_DIR is not set")


def start_host() -> None:
    sys.path.insert(0, COMFYUI or str(DOUBLES))
    if COMFYUI:
        sys.argv = [sys.argv[0], "--cpu"]
        # utils first: a package of that name elsewhere would take its place.
        for name in ("utils", "comfy.options"):
            module = importlib.import_module(name)
        module.enable_args_parsing()


def load_pack() -> ModuleType:
    """Under its path with dots replaced, as ComfyUI does; so relative imports are all that works."""
    name = str(ROOT).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec and spec.loader
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Pack:
    """The nodes, and the stock steps of a graph around them."""

    def __init__(self) -> None:
        start_host()
        module = load_pack()
        extension = asyncio.run(module.comfy_entrypoint())
        asyncio.run(extension.on_load())
        self.classes = {node.GET_SCHEMA().node_id: node for node in asyncio.run(extension.get_node_list())}
        self.adapter = self.module("nodes.comfy_adapter")
        self.web_directory = module.WEB_DIRECTORY

    def module(self, name: str) -> Any:
        """A module of the pack's own copy of the code."""
        return importlib.import_module(f"{str(ROOT).replace('.', '_x_')}.{name}")

    def schema(self, node_id: str) -> Any:
        return self.classes[node_id].GET_SCHEMA()

    def run(self, node_id: str, hidden: dict[str, Any] | None = None, **inputs: Any) -> Any:
        known = {"unique_id": "1", "prompt": None, "extra_pnginfo": None, **(hidden or {})}
        prepared = type("Prepared", (self.classes[node_id],), {"hidden": SimpleNamespace(**known)})
        return prepared.execute(**inputs)

    def encode_text(self, clip: Any, text: str) -> Any:
        if COMFYUI:
            return clip.encode_from_tokens_scheduled(clip.tokenize(text))
        return importlib.import_module("comfy.sd").encode_text(clip, text)

    def normalised(self, latent: Tensor) -> Tensor:
        """The host's raw latent as the core has it."""
        if COMFYUI:
            return importlib.import_module("comfy.latent_formats").Wan21().process_in(latent)
        return importlib.import_module("comfy.sd").process_in(latent)


@pytest.fixture(scope="session")
def pack() -> Pack:
    return Pack()


@pytest.fixture(scope="session")
def demo(pack: Pack) -> Any:
    """MODEL, CLIP, VAE of the embedded model."""
    return pack.run("KaleidoDemoModel").args


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    """Three references of different shapes."""
    random = np.random.default_rng(5)
    sizes = ((40, 64), (64, 40), (50, 50))
    return [Image.fromarray(random.integers(0, 255, (*size, 3), dtype=np.uint8)) for size in sizes]


def image(*pictures: Image.Image) -> Tensor:
    """The host's IMAGE ``[B H W 3]``."""
    return torch.from_numpy(np.stack([np.asarray(p.convert("RGB"), np.float32) / 255 for p in pictures]))
