"""Production models: folders in the layout of transformers and diffusers, read from the disk and from nowhere else."""

from pathlib import Path
from typing import Any

import torch

from kaleido_core.errors import ConfigError

from ..packages import load


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def read_model(folder: Path, name: str) -> Any:
    """The model by the name of its class in ``transformers``, on the best device."""
    half = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    return _read(folder, name, use_safetensors=True, dtype=half).to(device()).eval()


def read_pair(folder: Path, name: str, processor: str = "AutoProcessor") -> tuple[Any, Any]:
    """Model and processor, by the names of their classes in ``transformers``."""
    return read_model(folder, name), _read(folder, processor)


def _read(folder: Path, name: str, **settings: Any) -> Any:
    package = load("transformers", "transformers")
    try:
        return getattr(package, name).from_pretrained(folder, local_files_only=True, **settings)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{folder} cannot be read as a {name} of transformers ({error}). Name a folder with config.json, "
            "model.safetensors and the processor's files, or another model in the settings."
        ) from error


def on_device(inputs: Any, net: Any) -> dict[str, Any]:
    """A processor's output where the model is; pictures in its dtype."""
    return {
        name: value.to(net.device, net.dtype) if value.is_floating_point() else value.to(net.device)
        for name, value in inputs.items()
        if isinstance(value, torch.Tensor)
    }
