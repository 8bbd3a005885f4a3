"""Back to the official code's container: ``latest`` names a folder with one torch file in SAT's names (SPEC 1.1)."""

import os
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path

import torch

from ..errors import CheckpointError, ConfigError
from .convert import TORCH_DTYPES, Dtype, check_finite, read_changed
from .layouts import DIT_SAT, export
from .load import empty_module
from .lora import Lora
from .sizes import infer_config
from .source import OFFICIAL_FILE
from .weights import open_weights, shapes_of

RELEASE = "release"  # what ``latest`` says: weights, not a step of a run


def write_official(source: str | Path, folder: Path, dtype: Dtype = "bf16", loras: Sequence[Lora] = ()) -> None:
    """Write a transformer, ``loras`` added, as a new ``folder`` that the official scripts load.

    The whole model passes through main memory, unless it has ``dtype`` already: then only what SAT fuses does.
    Raises ``ConfigError`` for a folder that exists and for a dtype the official code does not know.
    """
    if dtype == "fp8_scaled" or folder.exists():
        raise ConfigError(
            f"{folder}, {dtype}: the official container is a new folder with bf16, fp16 or fp32 weights. "
            "Choose another name or dtype."
        )
    weights = open_weights(source, "dit")
    config = infer_config("dit", weights.shapes, weights.identity, weights.source.name)
    expected = shapes_of(empty_module("dit", config).state_dict())
    weights.require(expected)
    changes = [lora.changes(expected) for lora in loras]
    tensors = {
        name: check_finite(read_changed(weights, changes, name, TORCH_DTYPES[dtype]), name, dtype)
        for name in weights.in_file_order()
    }
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        (partial / RELEASE).mkdir(parents=True)
        torch.save({"module": export(tensors, DIT_SAT)}, partial / RELEASE / OFFICIAL_FILE)
        (partial / "latest").write_text(RELEASE + "\n", encoding="utf-8")
        os.replace(partial, folder)
    except OSError as error:
        raise CheckpointError(
            f"{folder} cannot be written ({error.strerror}); we need room and a folder with write access. "
            "Choose another."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
