"""The files around the code: what the host, pip and pytest read."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from kaleido_core.request_files import VERSION


@pytest.fixture(scope="module")
def project(root: Path) -> dict:
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_version_is_the_same_everywhere(project: dict, root: Path):
    assert project["project"]["version"] == VERSION
    assert f"## {VERSION}" in (root / "CHANGELOG.md").read_text(encoding="utf-8")


def test_requirements_are_the_project_dependencies(project: dict, root: Path):
    lines = (root / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not line.startswith("#")] == project["project"]["dependencies"]


def test_installing_the_pack_never_moves_the_hosts_torch_or_pins_anything(project: dict):
    for requirement in project["project"]["dependencies"]:
        assert not re.match(r"torch|opencv", requirement)
        assert "==" not in requirement and "<" not in requirement


def test_the_distribution_is_named_as_the_registry_wants(project: dict):
    name = project["project"]["name"]
    assert "comfyui" not in name.lower() and name != "kaleido" and len(name) < 100


def test_the_door_of_the_pack_opens_without_torch(root: Path):
    code = (
        "import importlib.util, sys; "
        f"spec = importlib.util.spec_from_file_location('pack', {str(root / '__init__.py')!r}, "
        f"submodule_search_locations=[{str(root)!r}]); "
        "sys.modules['pack'] = module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module); "
        "assert not {'torch', 'numpy', 'PIL'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("clone", ["main", "ComfyUI-Kaleido"])
def test_pytest_leaves_the_door_shut_whatever_the_clone_is_called(clone: str, root: Path, tmp_path: Path):
    folder = tmp_path / clone
    (folder / "tests" / "inner").mkdir(parents=True)
    (folder / "kaleido_core").mkdir()
    (folder / "kaleido_core" / "__init__.py").write_text("answer = 42\n")
    (folder / "__init__.py").write_text("raise RuntimeError('pytest imported the door')\n")
    (folder / "tests" / "conftest.py").write_text("import kaleido_core\n")
    test = "import kaleido_core\n\ndef test_the_core():\n    assert kaleido_core.answer == 42\n"
    (folder / "tests" / "test_core.py").write_text(test)
    (folder / "tests" / "inner" / "test_core.py").write_text(test)
    (folder / "pyproject.toml").write_bytes((root / "pyproject.toml").read_bytes())
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert "2 passed" in done.stdout, done.stdout + done.stderr
