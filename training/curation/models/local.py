"""Production models: folders in the layout of transformers and diffusers, read from the disk and from nowhere else."""

from pathlib import Path
from typing import Any

import torch

from kaleido_core.errors import ConfigError

from ..packages import load


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def half() -> torch.dtype:
    """The type of large models' weights; bfloat16 is slow where there is no GPU."""
    return torch.bfloat16 if torch.cuda.is_available() else torch.float32


def read_model(folder: Path, name: str, dtype: torch.dtype = torch.float32) -> Any:
    """The model by the name of its class in ``transformers``, on the best device.

    Float32 unless told otherwise: bfloat16 has eight bits, which moves a box in a picture of 1280 pixels by two.
    """
    return _read(folder, name, use_safetensors=True, dtype=dtype).to(device()).eval()


def read_processor(folder: Path, name: str = "AutoProcessor") -> Any:
    """What prepares pictures and words for the model of the same folder."""
    return _read(folder, name)


def _read(folder: Path, name: str, **settings: Any) -> Any:
    package = load("transformers", "transformers")
    try:
        return getattr(package, name).from_pretrained(folder, local_files_only=True, **settings)
    except ImportError as error:  # some processors need torchvision or sentencepiece
        raise ConfigError(f"The model in {folder} needs another package: {error}. Install it.") from error
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
