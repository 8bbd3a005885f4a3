"""Any weights file that we read -> one safetensors file in Wan's names, one tensor in memory at a time."""

import contextlib
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Literal, get_args

import torch
from torch import Tensor

from ..errors import CheckpointError, ConfigError
from . import fp8
from .layouts import DIT_SAT
from .load import empty_module
from .lora import Change, Lora
from .readers import TensorInfo
from .save import SafetensorsWriter
from .sizes import infer_config, write_identity
from .weights import Weights, open_weights, shapes_of

Dtype = Literal["bf16", "fp16", "fp32", "fp8_scaled"]
DTYPES = get_args(Dtype)
TORCH_DTYPES = {
    "bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "fp8_scaled": torch.bfloat16,
}  # fmt: skip
FP8_WEIGHT = re.compile(r"blocks\.\d+\.((self|cross)_attn\.[qkvo]|ffn\.[02])\.weight")

OnProgress = Callable[[int, int], None]
Changes = Sequence[Mapping[str, Change]]  # of each LoRA


def convert(
    source: str | Path,
    destination: str | Path,
    dtype: Dtype = "bf16",
    on_progress: OnProgress | None = None,
    kaleido: bool | None = None,
    loras: Sequence[Lora] = (),
) -> None:
    """Rewrite a model as one safetensors file that Kaleido and ComfyUI read.

    ``fp8_scaled`` (DiT only) stores the linear weights of the blocks as float8 with a scale, the rest as bfloat16.
    ``on_progress(done, total)`` counts tensors. ``kaleido`` says what the file cannot: that a model in Wan's names is
    Kaleido (True) or plain Wan (False); None keeps what the file says, and official checkpoints are Kaleido.
    ``loras`` are added to the weights before they are rounded.
    Raises ``CheckpointError`` without leaving a file when anything does not fit.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"dtype {dtype!r} is unknown; we write {', '.join(DTYPES)}. Choose one of them.")
    destination = _destination(destination)
    weights = open_weights(source)
    if dtype == "fp8_scaled" and weights.kind != "dit":
        raise ConfigError(
            f"{weights.source.name} is no DiT but a {weights.kind} model; fp8_scaled is not for it. Use bf16."
        )
    config = infer_config(weights.kind, weights.shapes, weights.identity, weights.source.name)
    expected = shapes_of(empty_module(weights.kind, config).state_dict())
    weights.require(expected)
    changes = [lora.changes(expected) for lora in loras]

    is_kaleido = identify(weights) if kaleido is None else kaleido
    origin = " + ".join((weights.source.name, *(lora.source.name for lora in loras)))
    metadata = write_identity(weights.kind, config, dtype, origin, is_kaleido)
    infos = {name: info for key, shape in expected.items() for name, info in _output(key, shape, dtype).items()}
    with _terminate_like_interrupt(), SafetensorsWriter(destination, infos, metadata) as writer:
        _copy(weights, changes, writer, dtype, on_progress or (lambda done, total: None))


def identify(weights: Weights) -> bool | None:
    """Whether a file is known to be Kaleido. Its shapes are Wan's, so only its origin or its metadata can tell."""
    if weights.detected.layout is DIT_SAT:
        return True
    return weights.identity.is_kaleido


def _destination(path: str | Path) -> Path:
    path = Path(path).expanduser()
    if path.suffix != ".safetensors" or path.is_dir():
        raise ConfigError(f"{path} is no name for the result; it must be a file ending in .safetensors.")
    return path


def _output(name: str, shape: tuple[int, ...], dtype: Dtype) -> dict[str, TensorInfo]:
    """What one tensor of ours becomes in the file."""
    if not _is_fp8(name, dtype):
        return {name: TensorInfo(shape, TORCH_DTYPES[dtype])}
    layer = name.removesuffix(".weight")
    return {
        name: TensorInfo(shape, fp8.FP8),
        f"{layer}.weight_scale": TensorInfo((), torch.float32),
        f"{layer}.comfy_quant": TensorInfo(tuple(fp8.describe_layer().shape), torch.uint8),
    }


def _is_fp8(name: str, dtype: Dtype) -> bool:
    return dtype == "fp8_scaled" and FP8_WEIGHT.fullmatch(name) is not None


def _copy(weights: Weights, changes: Changes, writer: SafetensorsWriter, dtype: Dtype, on_progress: OnProgress) -> None:
    names = weights.in_file_order()
    for done, name in enumerate(names):
        on_progress(done, len(names))
        for key, tensor in _converted(weights, changes, name, dtype).items():
            writer.write(key, tensor)
    on_progress(len(names), len(names))


def read_changed(weights: Weights, changes: Changes, name: str, dtype: torch.dtype) -> Tensor:
    """A weight with all that LoRAs add to it, rounded once."""
    mine = [change[name] for change in changes if name in change]
    if not mine:
        return weights.read(name, dtype)
    tensor = weights.read(name, torch.float32)
    for change in mine:
        tensor = change.added_to(tensor)
    return tensor.to(dtype)


def _converted(weights: Weights, changes: Changes, name: str, dtype: Dtype) -> dict[str, Tensor]:
    if not _is_fp8(name, dtype):
        return {name: check_finite(read_changed(weights, changes, name, TORCH_DTYPES[dtype]), name, dtype)}
    values, scale = fp8.quantise(read_changed(weights, changes, name, torch.float32))
    check_finite(scale, name, dtype)
    layer = name.removesuffix(".weight")
    return {name: values, f"{layer}.weight_scale": scale, f"{layer}.comfy_quant": fp8.describe_layer()}


def check_finite(tensor: Tensor, name: str, dtype: Dtype) -> Tensor:
    """The tensor; ``CheckpointError`` if a number is infinite or none."""
    if not torch.isfinite(tensor).all():
        raise CheckpointError(
            f"{name} has numbers that {dtype} cannot hold, or that are not finite in the source. "
            "Use bf16; if that fails too, the source is damaged: download it again."
        )
    return tensor


@contextlib.contextmanager
def _terminate_like_interrupt() -> Iterator[None]:
    """Turn SIGTERM into KeyboardInterrupt, so that a stopped conversion cleans up after itself."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
