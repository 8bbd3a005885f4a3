"""Files are mapped, never changed, and read whatever their container."""

import json
import zipfile

import pytest
import torch

from kaleido_core.checkpoints import readers
from kaleido_core.checkpoints.readers import SafetensorsReader, TorchReader
from kaleido_core.errors import CheckpointError


@pytest.fixture(params=["safetensors", "torch", "torch without offsets", "compressed torch", "old torch"])
def reader(request, tmp_path, write, monkeypatch):
    """A reader of five tensors, one a transposed view and one empty."""
    base = torch.arange(24.0).reshape(4, 6)
    tensors = {"a": base, "b": base.bfloat16(), "t": base.T, "e": torch.zeros(0, 3), "h": base[1:3].half()}
    if request.param == "safetensors":
        return SafetensorsReader(write(tensors)), tensors
    monkeypatch.setattr(readers, "_torch_tells_offsets", lambda: request.param == "torch")
    torch.save(tensors, tmp_path / "a.pt", _use_new_zipfile_serialization=request.param != "old torch")
    if request.param == "compressed torch":
        with (
            zipfile.ZipFile(tmp_path / "a.pt") as old,
            zipfile.ZipFile(tmp_path / "b.pt", "w", zipfile.ZIP_DEFLATED) as new,
        ):
            for entry in old.namelist():
                new.writestr(entry, old.read(entry))
        (tmp_path / "b.pt").replace(tmp_path / "a.pt")
    return TorchReader(tmp_path / "a.pt"), tensors


def test_every_container_gives_the_same_tensors(reader):
    opened, tensors = reader
    assert opened.infos.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (opened.infos[name].shape, opened.infos[name].dtype) == (tuple(tensor.shape), tensor.dtype)
        assert torch.equal(opened.read(name), tensor), name


def test_this_torch_tells_where_tensors_lie():
    """Without it conversion still works, but needs address space for the whole file."""
    assert readers._torch_tells_offsets() or torch.__version__ < "2.13"


def test_writing_to_a_tensor_leaves_the_file_alone(write):
    path = write({"a": torch.zeros(1000)})
    before = path.read_bytes()
    SafetensorsReader(path).read("a").fill_(7)
    assert path.read_bytes() == before and not SafetensorsReader(path).read("a").any()


def test_tensors_outlive_their_window_and_may_cross_its_border(write, monkeypatch):
    monkeypatch.setattr(readers, "WINDOW", 8192)
    tensors = {f"t{n}": torch.full((size,), float(n)) for n, size in enumerate((100, 3000, 500, 5000, 1))}
    opened = SafetensorsReader(write(tensors))
    read = {name: opened.read(name) for name in reversed(tensors)}
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [4], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [400], "data_offsets": [0, 1600]},
        {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]},
        {"dtype": "F32", "shape": [2]},
        "text",
        {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]},
    ],
)
def test_headers_that_lie_are_refused(entry, tmp_path):
    header = json.dumps({"a": entry}).encode()
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    with pytest.raises(CheckpointError):
        SafetensorsReader(tmp_path / "a.safetensors")


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"version https://git-lfs.github.com/spec/v1"])
def test_downloads_gone_wrong_are_refused(content, tmp_path):
    for name, reader in (("a.safetensors", SafetensorsReader), ("a.pt", TorchReader)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CheckpointError):
            reader(tmp_path / name)
