"""Models and tokenizer from files, or the embedded ones under the name "tiny"."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ..config import DiTConfig, TextConfig, VAEConfig
from ..dit.model import KaleidoDiT
from ..errors import CheckpointError
from ..text.encoder import UMT5Encoder
from ..text.tokenizer import Tokenizer
from ..vae.model import WanVAE
from .layouts import Kind
from .sizes import Config, infer_config
from .source import SUFFIXES, open_source
from .weights import Weights, open_weights, shapes_of

logger = logging.getLogger("kaleido.checkpoints")

TINY = "tiny"
ASSETS = Path(__file__).parent.parent / "assets"
DEMO_REFERENCES = ASSETS / "references"
TINY_FILES: dict[str, str] = {  # in folders as ComfyUI names them, which the nodes add to its lists
    "dit": "diffusion_models/kaleido_tiny_dit.safetensors",
    "vae": "vae/kaleido_tiny_vae.safetensors",
    "text": "text_encoders/kaleido_tiny_text.safetensors",
    "tokenizer": "text_encoders/kaleido_tiny_spiece.model",
}
MODULES: dict[Kind, Callable[[Any], nn.Module]] = {"dit": KaleidoDiT, "vae": WanVAE, "text": UMT5Encoder}
TOKENIZER_FILES = ("spiece.model", "google/umt5-xxl/spiece.model", "tokenizer/spiece.model", "tokenizer.model")
CONVERTED = 2**32  # bytes from which on it is worth a word that a model is converted
TOKENIZER_TENSOR = "spiece_model"  # ComfyUI's text encoder files carry it


def load_dit(
    path: str | Path,
    config: DiTConfig | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> KaleidoDiT:
    """The video transformer. ``dtype`` None: as most of the file; bfloat16 for eight-bit files."""
    weights = open_weights(model_path(path, "dit"), "dit")
    return cast(KaleidoDiT, _load(weights, config, device, dtype or weights.natural_dtype()))


def load_vae(
    path: str | Path,
    config: VAEConfig | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> WanVAE:
    """The video autoencoder; float32 unless told otherwise, whatever the file has."""
    return cast(WanVAE, _load(open_weights(model_path(path, "vae"), "vae"), config, device, dtype or torch.float32))


def load_text_encoder(
    path: str | Path,
    config: TextConfig | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> UMT5Encoder:
    """The text encoder. ``dtype`` None: as most of the file; bfloat16 for eight-bit files."""
    weights = open_weights(model_path(path, "text"), "text")
    return cast(UMT5Encoder, _load(weights, config, device, dtype or weights.natural_dtype()))


def load_tokenizer(path: str | Path) -> Tokenizer:
    """From a SentencePiece model, a folder that holds one, or a text encoder file with one inside or beside it."""
    path = model_path(path, "tokenizer")
    if path.suffix == ".safetensors" and path.is_file():
        source = open_source(path)
        if TOKENIZER_TENSOR in source.infos:  # ComfyUI's umt5_xxl files
            return Tokenizer.from_bytes(source.read(TOKENIZER_TENSOR).numpy().tobytes())
    if path.is_file() and path.suffix not in SUFFIXES:
        return Tokenizer.from_file(path)
    folder = path if path.is_dir() else path.parent
    for name in TOKENIZER_FILES:
        if (folder / name).is_file():
            return Tokenizer.from_file(folder / name)
    raise CheckpointError(
        f"{path} holds no tokenizer, nor does its folder; we need {' or '.join(TOKENIZER_FILES)}. Name the file."
    )


def model_path(path: str | Path, part: str) -> Path:
    """The embedded file for "tiny", else the path itself."""
    if path != TINY:
        return Path(path).expanduser()
    embedded = ASSETS / TINY_FILES[part]
    if not embedded.is_file():
        raise CheckpointError(
            f"The embedded model's {embedded.name} is not installed; it belongs into {embedded.parent}. "
            "Reinstall Kaleido with its assets, or pass the path of a model."
        )
    return embedded


def empty_module(kind: Kind, config: Config) -> nn.Module:
    """The module with parameters that have a shape but take no memory."""
    with _NoMemory():
        return MODULES[kind](config)


class _NoMemory(TorchFunctionMode):
    """Put ``torch.empty``, where parameters come from, on the meta device.

    ``torch.device("meta")`` would also swallow buffers, such as the VAE's mean and std, that no file brings back.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__ == "normal_":  # pointless without memory, and on "meta" it imports 800 modules for it
            return args[0] if args else kwargs["tensor"]
        place = {"device": "meta"} if func is torch.empty else {}
        return func(*args, **{**(kwargs or {}), **place})


def _load(weights: Weights, config: Config | None, device: torch.device | str, dtype: torch.dtype) -> nn.Module:
    config = config or infer_config(weights.kind, weights.shapes, weights.identity, weights.source.name)
    module = empty_module(weights.kind, config)
    expected = shapes_of(module.state_dict())
    weights.require(expected)
    tensors = {name: weights.read(name, dtype).to(device) for name in weights.in_file_order()}
    module.load_state_dict(tensors, strict=True, assign=True)
    logger.info("loaded %s: %d tensors, %s layout", weights.source.name, len(tensors), weights.detected)
    _tell_conversion(weights, dtype)
    return module.to(device).eval().requires_grad_(False)


def _tell_conversion(weights: Weights, dtype: torch.dtype) -> None:
    """What cannot be mapped from a large file takes as much main memory, which surprises people."""
    shapes = [torch.Size(shape) for name, shape in weights.shapes.items() if weights.stored_dtype(name) != dtype]
    size = sum(shape.numel() for shape in shapes) * dtype.itemsize
    if size > CONVERTED:
        logger.warning(
            "%s is converted to %s in main memory, which takes %.1f GiB; `convert --dtype bf16` writes a file that is "
            "mapped instead.", weights.source.name, str(dtype).removeprefix("torch."), size / 2**30,
        )  # fmt: skip
