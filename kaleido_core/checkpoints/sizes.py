"""A model's sizes from the shapes of its tensors and the file's metadata."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import DiTConfig, TextConfig, VAEConfig
from ..errors import CheckpointError
from .layouts import Kind

Config = DiTConfig | VAEConfig | TextConfig
Shapes = Mapping[str, tuple[int, ...]]

METADATA_KEY = "kaleido"
HEAD_WIDTH = 128  # all Wan models; shapes do not tell it
HOST_TEXT_WIDTH = 4096  # what ComfyUI assumes of a Wan model
ARCHITECTURES: dict[Kind, str] = {"dit": "kaleido-dit", "vae": "wan-vae", "text": "umt5-encoder"}
CONFIG_TYPES: dict[Kind, type[DiTConfig] | type[VAEConfig] | type[TextConfig]] = {
    "dit": DiTConfig, "vae": VAEConfig, "text": TextConfig,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Identity:
    """What a file says of itself. ``is_kaleido`` None: it does not say."""

    config: Config | None = None
    is_kaleido: bool | None = None
    source: str = ""


def read_identity(metadata: Mapping[str, str], kind: Kind) -> Identity:
    """The ``kaleido`` entry of a file's metadata."""
    if METADATA_KEY not in metadata:
        return Identity()
    try:
        entry = json.loads(metadata[METADATA_KEY])
        values = {k: _tuples(v) for k, v in entry.get("config", {}).items()}
        config = CONFIG_TYPES[kind](**values) if values else None
        return Identity(config, entry.get("is_kaleido"), entry.get("source", ""))
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"The file's 'kaleido' metadata does not describe a {kind} model ({error}). "
            "It must be what `convert` writes; convert the model again, or update Kaleido if the file is newer."
        ) from error


def write_identity(kind: Kind, config: Config, dtype: str, source: str, is_kaleido: bool | None) -> dict[str, str]:
    """Metadata for a file of ours, with the sizes ComfyUI could not guess."""
    entry = {
        "format": 1,
        "architecture": ARCHITECTURES[kind],
        "is_kaleido": is_kaleido,
        "config": dataclasses.asdict(config),
        "dtype": dtype,
        "source": Path(source).name,
    }
    metadata = {"format": "pt", METADATA_KEY: json.dumps(entry)}
    if isinstance(config, DiTConfig) and (config.head_width != HEAD_WIDTH or config.text_width != HOST_TEXT_WIDTH):
        sizes = {"text_dim": config.text_width, "num_heads": config.num_heads}
        metadata["config"] = json.dumps({"transformer": sizes})
    return metadata


def infer_config(kind: Kind, shapes: Shapes, identity: Identity = Identity(), name: str = "The file") -> Config:
    """The config that these shapes, under our names, belong to."""
    infer = {"dit": infer_dit, "vae": infer_vae, "text": infer_text}[kind]
    try:
        return infer(shapes, identity, name)
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{name} lacks tensors that tell the model's size ({error}); we need a whole {kind} model. "
            "Use the complete file, not a LoRA or a part."
        ) from error


def infer_dit(shapes: Shapes, identity: Identity, name: str) -> DiTConfig:
    width, channels, *patch = shapes["patch_embedding.weight"]
    known = identity.config if isinstance(identity.config, DiTConfig) else None
    if known is None and width % HEAD_WIDTH:
        raise CheckpointError(
            f"{name} is {width} wide, which does not split into heads of {HEAD_WIDTH}, and its metadata does not tell "
            "the number of heads. Pass config=DiTConfig(...)."
        )
    return DiTConfig(
        num_layers=_count_blocks(shapes),
        width=width,
        num_heads=known.num_heads if known else width // HEAD_WIDTH,
        mlp_width=shapes["blocks.0.ffn.0.weight"][0],
        text_width=shapes["text_embedding.0.weight"][1],
        latent_channels=channels,
        patch_size=(patch[0], patch[1], patch[2]),
        frequency_width=shapes["time_embedding.0.weight"][1],
        eps=known.eps if known else 1e-6,
    )


def infer_vae(shapes: Shapes, identity: Identity, name: str) -> VAEConfig:
    known = identity.config if isinstance(identity.config, VAEConfig) else VAEConfig()
    return dataclasses.replace(
        known, base_width=shapes["decoder.head.0.gamma"][0], latent_channels=shapes["conv2.weight"][0]
    )


def infer_text(shapes: Shapes, identity: Identity, name: str) -> TextConfig:
    known = identity.config if isinstance(identity.config, TextConfig) else None
    buckets, heads = shapes["blocks.0.pos_embedding.embedding.weight"]
    return TextConfig(
        vocab_size=shapes["token_embedding.weight"][0],
        width=shapes["token_embedding.weight"][1],
        attention_width=shapes["blocks.0.attn.q.weight"][0],
        mlp_width=shapes["blocks.0.ffn.fc1.weight"][0],
        num_heads=heads,
        num_layers=_count_blocks(shapes),
        num_buckets=buckets,
        max_distance=known.max_distance if known else 128,
    )


def _count_blocks(shapes: Shapes) -> int:
    return len({key.split(".")[1] for key in shapes if key.startswith("blocks.")})


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
