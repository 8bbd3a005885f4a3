"""What a weights file is, from its header alone."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch

from .convert import identify
from .layouts import Kind
from .load import model_path
from .sizes import Config, infer_config
from .weights import Weights, open_weights

KIND_TEXT: dict[Kind, str] = {
    "dit": "video transformer (DiT)", "vae": "video autoencoder (VAE)", "text": "text encoder (UMT5)",
}  # fmt: skip


@dataclass(frozen=True)
class CheckpointInfo:
    """``parameters`` and ``stored_bytes`` count the model's own tensors; ``is_kaleido`` None means: cannot be told."""

    path: Path
    kind: Kind
    config: Config
    layout: str
    dtypes: tuple[str, ...]
    parameters: int
    tensors: int
    stored_bytes: int
    is_kaleido: bool | None
    verdict: str


def info(path: str | Path) -> CheckpointInfo:
    """Describe a checkpoint. Raises ``CheckpointError`` for what is not one."""
    weights = open_weights(model_path(path, "dit"))
    sizes: dict[torch.dtype, int] = {}
    for name, shape in weights.shapes.items():
        dtype = weights.stored_dtype(name)
        sizes[dtype] = sizes.get(dtype, 0) + torch.Size(shape).numel()
    is_kaleido, verdict = _verdict(weights)
    return CheckpointInfo(
        path=weights.source.path,
        kind=weights.kind,
        config=infer_config(weights.kind, weights.shapes, weights.identity, weights.source.name),
        layout=str(weights.detected),
        dtypes=tuple(str(dtype).removeprefix("torch.") for dtype in sorted(sizes, key=lambda d: -sizes[d])),
        parameters=sum(sizes.values()),
        tensors=len(weights.shapes),
        stored_bytes=sum(dtype.itemsize * count for dtype, count in sizes.items()),
        is_kaleido=is_kaleido,
        verdict=verdict,
    )


def describe(path: str | Path) -> str:
    """A few lines about a checkpoint, to be printed."""
    found = info(path)
    sizes = ", ".join(
        f"{field.name} {getattr(found.config, field.name)}"
        for field in dataclasses.fields(found.config)
        if field.name not in ("mean", "std")
    )
    size = found.stored_bytes
    rows = {
        "file": str(found.path),
        "model": KIND_TEXT[found.kind],
        "sizes": sizes,
        "layout": found.layout,
        "numbers": f"{' + '.join(found.dtypes)}, {found.parameters:,} parameters in {found.tensors} tensors",
        "size": f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.2f} MiB",
        "Kaleido": found.verdict,
    }
    return "\n".join(f"{name + ':':<9}{value}" for name, value in rows.items())


def _verdict(weights: Weights) -> tuple[bool | None, str]:
    is_kaleido = identify(weights)
    if weights.identity.is_kaleido:
        return True, "yes, the file's metadata says so"
    if is_kaleido is False:
        return False, "no, the file's metadata says plain Wan"
    if is_kaleido:
        return True, "yes, by its layout: Kaleido's official code writes it (and, from plain Wan, a start for training)"
    if weights.kind != "dit":
        return None, "the file does not say; Kaleido uses Wan's VAE and text encoder unchanged"
    return None, (
        "unknown: the file does not say, and a plain Wan 2.1 text-to-video model has the same names and shapes. "
        "If you know that it is Kaleido, `convert --kaleido` writes that into a new file"
    )
