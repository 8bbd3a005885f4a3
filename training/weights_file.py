"""A checkpoint's weights as a file for use: a LoRA that ComfyUI loads, or a whole transformer."""

from contextlib import nullcontext
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor

from kaleido_core.checkpoints.readers import TensorInfo
from kaleido_core.checkpoints.save import SafetensorsWriter
from kaleido_core.checkpoints.sizes import write_identity

from .config import Config
from .distributed import Ranks
from .export import LORA_FILE, MODEL_FILE, Origin, save_lora
from .lora import lora_state
from .trainee import Trainee


def write_weights(folder: Path, trainee: Trainee, config: Config, ranks: Ranks, origin: Origin) -> None:
    """Write what the model holds now into ``folder``; all ranks call it, the first one writes."""
    if config.model.method == "full":
        _write_model(folder / MODEL_FILE, trainee, origin, ranks)
    elif ranks.first:
        save_lora(folder / LORA_FILE, lora_state(trainee.dit), origin)


def _write_model(path: Path, trainee: Trainee, origin: Origin, ranks: Ranks) -> None:
    """In bfloat16, one tensor at a time: no rank holds them all at once."""
    infos = {name: TensorInfo(tuple(p.shape), torch.bfloat16) for name, p in trainee.parameters.items()}
    metadata = write_identity("dit", trainee.dit.config, "bf16", origin.base_model, is_kaleido=True)
    with SafetensorsWriter(path, infos, metadata) if ranks.first else nullcontext() as writer:
        for name, parameter in trainee.parameters.items():
            value = parameter.detach()
            whole = value.full_tensor() if isinstance(value, DTensor) else value
            if writer:
                writer.write(name, whole.bfloat16())
