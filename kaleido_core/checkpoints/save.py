"""Safetensors files, written tensor by tensor and never left half done."""

import json
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from ..errors import CheckpointError
from .readers import SAFETENSORS_DTYPES, TensorInfo

_DTYPE_NAMES = {dtype: name for name, dtype in SAFETENSORS_DTYPES.items()}


class SafetensorsWriter:
    """A file whose shapes and dtypes are known before its numbers.

    The header is written first, then each tensor at its place, in any order. The file appears under its name when
    the ``with`` block ends well; otherwise nothing is left. (Killed by force, a ``.NAME.*.partial`` may stay.)
    """

    def __init__(self, path: str | Path, infos: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> None:
        self.path = Path(path)
        self._infos = dict(infos)
        self._offsets: dict[str, int] = {}
        self._missing = set(infos)
        self._header = self._layout(metadata)

    def _layout(self, metadata: Mapping[str, str]) -> bytes:
        """The length and the JSON header. Wide dtypes come first, so that each tensor is aligned to its numbers."""
        header: dict[str, object] = {"__metadata__": dict(metadata)}
        end = 0
        for name, info in sorted(self._infos.items(), key=lambda item: -item[1].dtype.itemsize):
            start, end = end, end + info.dtype.itemsize * torch.Size(info.shape).numel()
            self._offsets[name] = start
            header[name] = {
                "dtype": _DTYPE_NAMES[info.dtype], "shape": list(info.shape), "data_offsets": [start, end],
            }  # fmt: skip
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self._size = 8 + len(text) + end
        return len(text).to_bytes(8, "little") + text

    def __enter__(self) -> "SafetensorsWriter":
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._check_space()
            self._temporary = self.path.with_name(f".{self.path.name}.{uuid.uuid4().hex[:8]}.partial")
            self._file = self._temporary.open("xb")
        except OSError as error:
            raise CheckpointError(
                f"{self.path} cannot be written ({error.strerror}); we need a folder with write access. Choose another."
            ) from error
        self._put(0, self._header)
        return self

    def _check_space(self) -> None:
        free = shutil.disk_usage(self.path.parent).free
        if free < self._size:
            raise CheckpointError(
                f"{self.path.parent} has {free / 2**30:.1f} GiB free; {self.path.name} needs "
                f"{self._size / 2**30:.1f} GiB. Make room, or write to another disk."
            )

    def write(self, name: str, tensor: Tensor) -> None:
        info = self._infos[name]
        assert (tuple(tensor.shape), tensor.dtype) == (info.shape, info.dtype), f"{name} is not as announced"
        numbers = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
        self._put(len(self._header) + self._offsets[name], numbers)
        self._missing.remove(name)

    def _put(self, position: int, content: bytes | memoryview) -> None:
        self._file.seek(position)
        self._file.write(content)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                assert not self._missing, f"never written: {sorted(self._missing)[:5]}"
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()
                os.replace(self._temporary, self.path)
        finally:
            try:
                self._file.close()
            finally:
                self._temporary.unlink(missing_ok=True)


def save_weights(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a state dict as safetensors, whole or not at all."""
    infos = {name: TensorInfo(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    with SafetensorsWriter(path, infos, metadata or {"format": "pt"}) as writer:
        for name, tensor in tensors.items():
            writer.write(name, tensor)
