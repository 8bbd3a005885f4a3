"""A weights file, a set of shards or a folder, read one tensor at a time."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from torch import Tensor

from ..errors import CheckpointError
from .layouts import Kind
from .readers import Reader, SafetensorsReader, TensorInfo, TorchReader

OFFICIAL_FILE = "mp_rank_00_model_states.pt"
TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
SUFFIXES = (".safetensors", *TORCH_SUFFIXES)
# What holds each model inside a release folder: diffusers' sub-folders, Wan's own file names.
FOLDER_PARTS: dict[Kind, tuple[str, ...]] = {
    "dit": ("transformer",),
    "vae": ("vae", "Wan2.1_VAE.pth", "Wan2.1_VAE.safetensors"),
    "text": ("text_encoder", "models_t5_umt5-xxl-enc-bf16.pth", "models_t5_umt5-xxl-enc-bf16.safetensors"),
}
INDEX_SUFFIX = ".safetensors.index.json"


class WeightSource:
    """All keys of one model, wherever they lie. Only headers are read until ``read``."""

    def __init__(self, path: Path, readers: Sequence[Reader]) -> None:
        self.path, self._readers = path, readers
        self.metadata: dict[str, str] = {}
        self.infos: dict[str, TensorInfo] = {}
        self._owner: dict[str, Reader] = {}
        for reader in readers:
            self.metadata |= reader.metadata
            self.infos |= reader.infos
            self._owner |= dict.fromkeys(reader.infos, reader)

    @property
    def name(self) -> str:
        return self.path.name

    def read(self, key: str) -> Tensor:
        """The tensor as stored, a view of mapped memory."""
        return self._owner[key].read(key)

    def in_file_order(self, keys: Iterable[str]) -> list[str]:
        """Keys as they lie on the disk. Reading in this order is fast and keeps few windows open."""
        order = {id(reader): number for number, reader in enumerate(self._readers)}
        return sorted(keys, key=lambda key: (order[id(self._owner[key])], self.infos[key].offset))


def open_source(path: str | Path, kind: Kind | None = None) -> WeightSource:
    """Open a weights file, an index of shards, or a folder with either. ``kind`` chooses inside a release folder."""
    path = Path(path).expanduser()
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; we need a weights file or its folder. Check the path.")
    file = _choose_file(path, kind) if path.is_dir() else path
    files = _shards(file) if file.name.endswith(".index.json") else [file]
    return WeightSource(file, [_open_file(file) for file in files])


def _open_file(path: Path) -> Reader:
    if path.suffix == ".safetensors":
        return SafetensorsReader(path)
    if path.suffix in TORCH_SUFFIXES:
        return TorchReader(path)
    raise CheckpointError(
        f"{path.name} is no weights file that we know; we read {', '.join(SUFFIXES)}. Pick one of those"
        + (", or load GGUF files with a GGUF loader node in ComfyUI." if path.suffix == ".gguf" else ".")
    )


def _choose_file(folder: Path, kind: Kind | None) -> Path:
    """The one weights file, or index, that a folder means."""
    for part in FOLDER_PARTS[kind or "dit"]:
        if (folder / part).is_file():
            return folder / part
        if (folder / part).is_dir():
            return _choose_file(folder / part, kind)
    if (folder / "latest").is_file():
        return _official_file(folder)
    others = {name for parts in FOLDER_PARTS.values() for name in parts}
    for pattern in (f"*{INDEX_SUFFIX}", "*.safetensors", OFFICIAL_FILE, "*.pt", "*.pth"):
        found = sorted(file for file in folder.glob(pattern) if file.name not in others)
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(file.name for file in found[:5])
            raise CheckpointError(f"{folder} holds {len(found)} weights files ({names}); we need one. Name the file.")
    raise CheckpointError(
        f"{folder} holds no weights; we need a .safetensors or .pt file, shards with their index, "
        "or an official folder with 'latest'. Check the path."
    )


def _official_file(folder: Path) -> Path:
    """``latest`` names the folder, an iteration number or ``release``, that holds the weights."""
    name = (folder / "latest").read_text(encoding="utf-8").strip()
    file = folder / name / OFFICIAL_FILE
    if Path(name).name != name or not file.is_file():
        raise CheckpointError(
            f"{folder / 'latest'} says {name!r}, but there is no {name}/{OFFICIAL_FILE} beside it. "
            "Complete the download, and merge the parts as its README says."
        )
    return file


def _shards(index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(
            f"{index.name} is no index of shards; it must be JSON with a weight_map. Download it again."
        ) from error
    missing = [name for name in names if Path(name).name != name or not (index.parent / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{index.name} lists {len(names)} shards, {len(missing)} are not beside it ({', '.join(missing[:5])}). "
            "Complete the download."
        )
    return [index.parent / name for name in names]
