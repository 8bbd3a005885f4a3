"""A file appears whole or not at all."""

from collections import namedtuple

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from kaleido_core.checkpoints import save
from kaleido_core.checkpoints.readers import SAFETENSORS_DTYPES, TensorInfo
from kaleido_core.checkpoints.save import SafetensorsWriter, save_weights
from kaleido_core.errors import CheckpointError


def test_every_dtype_and_shape_survives(tmp_path):
    tensors = {name: torch.arange(6).reshape(2, 3).to(dtype) for name, dtype in SAFETENSORS_DTYPES.items()}
    tensors |= {"scalar": torch.tensor(3.0), "empty": torch.zeros(0, 4), "strided": torch.arange(12.0).reshape(3, 4).T}
    save_weights(tmp_path / "new" / "a.safetensors", tensors, {"kaleido": "{}"})
    loaded = load_file(tmp_path / "new" / "a.safetensors")
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype and torch.equal(loaded[name].float(), tensor.float()), name
    with safe_open(tmp_path / "new" / "a.safetensors", framework="pt") as file:
        assert file.metadata() == {"kaleido": "{}"}


def test_forgotten_or_changed_tensors_leave_nothing(tmp_path):
    infos = {"a": TensorInfo((2,), torch.float32), "b": TensorInfo((2,), torch.float32)}
    for tensor in (torch.zeros(2), torch.zeros(3), torch.zeros(2).half()):
        with pytest.raises(AssertionError), SafetensorsWriter(tmp_path / "a.safetensors", infos, {}) as writer:
            writer.write("a", tensor)
    assert not list(tmp_path.iterdir())


def test_full_disks_and_closed_folders_are_said_before_writing(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(save.shutil, "disk_usage", lambda path: usage(10, 10, 0))
    with pytest.raises(CheckpointError, match="Make room"):
        save_weights(tmp_path / "a.safetensors", {"a": torch.zeros(4)})
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CheckpointError, match="cannot be written"):
        save_weights(tmp_path / "file" / "a.safetensors", {"a": torch.zeros(4)})
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
