"""One weights file, its tensors mapped into memory a window at a time. Only tensors are ever unpickled."""

import argparse
import functools
import io
import json
import logging
import mmap
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import CheckpointError

logger = logging.getLogger("kaleido.checkpoints")

WINDOW = 512 * 2**20
MAX_HEADER = 100 * 2**20  # what the safetensors library allows
STATE_DICT_ENTRIES = ("module", "state_dict", "model")
SAFETENSORS_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "U8": torch.uint8, "I8": torch.int8,
    "I16": torch.int16, "I32": torch.int32, "I64": torch.int64, "BOOL": torch.bool,
}  # fmt: skip


@dataclass(frozen=True)
class TensorInfo:
    """``offset`` is where the numbers begin in the file, for reading in order."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    offset: int = 0

    @property
    def size(self) -> int:
        """In bytes."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class Reader(Protocol):
    infos: dict[str, TensorInfo]
    metadata: dict[str, str]

    def read(self, key: str) -> Tensor: ...


class MappedFile:
    """Bytes of a file as tensors, without reading them in.

    A window stays mapped as long as a tensor in it lives. Windows, because the kernel refuses to map a whole file that
    is larger than its memory; few of them, because each costs an open file. A tensor that is written to gets its own
    copy: the file never changes.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.size = path, path.stat().st_size
        self._window: mmap.mmap | None = None
        self._start = self._end = 0

    def bytes_at(self, offset: int, size: int) -> Tensor:
        """uint8 ``[size]``."""
        if size == 0:
            return torch.empty(0, dtype=torch.uint8)
        if self._window is None or not self._start <= offset <= offset + size <= self._end:
            self._open_window(offset, size)
        assert self._window is not None
        return torch.frombuffer(self._window, dtype=torch.uint8, count=size, offset=offset - self._start)

    def _open_window(self, offset: int, size: int) -> None:
        if offset + size > self.size:
            raise CheckpointError(f"{self.path.name} ends too early; we need the whole file. Download it again.")
        self._start = offset - offset % mmap.ALLOCATIONGRANULARITY
        self._end = min(self.size, max(offset + size, self._start + WINDOW))
        with self.path.open("rb") as file:
            self._window = mmap.mmap(
                file.fileno(), self._end - self._start, access=mmap.ACCESS_COPY, offset=self._start
            )


class SafetensorsReader:
    def __init__(self, path: Path) -> None:
        self._file = MappedFile(path)
        try:
            header, start = _safetensors_header(path)
            self.metadata: dict[str, str] = header.pop("__metadata__", None) or {}
            self.infos = {key: _info(path, key, entry, start) for key, entry in header.items()}
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            raise CheckpointError(
                f"{path.name} cannot be read as safetensors ({error}). It must be a complete file; download it again."
            ) from error

    def read(self, key: str) -> Tensor:
        info = self.infos[key]
        return self._file.bytes_at(info.offset, info.size).view(info.dtype).view(info.shape)


def _safetensors_header(path: Path) -> tuple[dict[str, Any], int]:
    """The JSON header, and where the numbers begin."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= MAX_HEADER:
            raise ValueError("it does not begin with a header")
        return json.loads(file.read(length)), 8 + length


def _info(path: Path, key: str, entry: dict[str, Any], start: int) -> TensorInfo:
    if entry["dtype"] not in SAFETENSORS_DTYPES:
        raise CheckpointError(
            f"{path.name} stores {key} as {entry['dtype']}; we read 32, 16 and 8 bit weights. "
            "Use a bf16 or fp8 version of this model."
        )
    first, last = entry["data_offsets"]
    info = TensorInfo(tuple(entry["shape"]), SAFETENSORS_DTYPES[entry["dtype"]], start + first)
    if last - first != info.size or first < 0 or start + last > path.stat().st_size:
        raise ValueError(f"{key} does not fit into the file")
    return info


class TorchReader:
    """A torch file, its tensors mapped where torch can tell their places."""

    def __init__(self, path: Path) -> None:
        self.metadata: dict[str, str] = {}
        self._file = MappedFile(path)
        self._tensors = _state_dict(_torch_load(path), path)
        self.infos = {
            key: TensorInfo(tuple(t.shape), t.dtype, t.untyped_storage()._checkpoint_offset or 0 if t.is_meta else 0)
            for key, t in self._tensors.items()
        }

    def read(self, key: str) -> Tensor:
        tensor = self._tensors[key]
        if not tensor.is_meta:
            return tensor
        numbers = self._file.bytes_at(self.infos[key].offset, tensor.untyped_storage().nbytes())
        return numbers.view(tensor.dtype).as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def _torch_load(path: Path) -> object:
    mappable = _is_plain_zip(path)
    if not mappable:
        logger.warning("%s is in torch's old format, or compressed, and is read into memory as a whole", path.name)
    place = "meta" if mappable and _torch_tells_offsets() else "cpu"
    try:
        # Training programs keep their arguments beside the weights: a bag of plain values, harmless to restore.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location=place, weights_only=True, mmap=mappable and place == "cpu")
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path.name} holds Python objects, not only tensors, and opening it could run somebody's code. "
            "We read tensors only; get the weights as .safetensors, or save the bare state dict again where "
            f"you trust the file. ({str(error).strip().splitlines()[0]})"
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise CheckpointError(
            f"{path.name} cannot be read as a torch file ({error}). It must be complete; download it again."
        ) from error


def _is_plain_zip(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())


@functools.cache
def _torch_tells_offsets() -> bool:
    """Whether this torch, loading to "meta", skips the numbers and remembers where they lie. Older ones do not."""
    file = io.BytesIO()
    torch.save(torch.zeros(1), file)
    file.seek(0)
    loaded = torch.load(file, map_location="meta", weights_only=True)
    return getattr(loaded.untyped_storage(), "_checkpoint_offset", None) is not None


def _state_dict(content: object, path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict, or of the entry that holds one."""
    while isinstance(content, Mapping):
        inner = next((content[name] for name in STATE_DICT_ENTRIES if isinstance(content.get(name), Mapping)), None)
        if inner is None:
            tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
            if tensors:
                return tensors
        content = inner
    raise CheckpointError(
        f"{path.name} holds no tensors that we can find; we need a state dict, or one under 'module'. "
        "Check that this is the weights file and not an optimizer state."
    )
