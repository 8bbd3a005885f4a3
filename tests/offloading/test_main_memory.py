"""How much main memory is left, where a control group has less than the machine."""

import pytest

from kaleido_core.offloading import block_swap, main_memory
from kaleido_core.offloading.main_memory import FILES, free_memory
from kaleido_core.offloading.visitors import choose_visitors

from .conftest import linears


def group(folder, version, limit, used=0, files=0):
    folder.mkdir(parents=True, exist_ok=True)
    limit_file, used_file, kept = FILES[version]
    (folder / limit_file).write_text(f"{limit}\n")
    (folder / used_file).write_text(f"{used}\n")
    (folder / "memory.stat").write_text("anon 7\n" + "".join(f"{name} {files // 2}\n" for name in kept))
    return folder, version


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    monkeypatch.setattr(main_memory, "_system_memory", lambda: 5000)


@pytest.mark.parametrize("version", FILES)
@pytest.mark.parametrize(
    "limit, used, files, left",
    [(1000, 300, 0, 700), (1000, 990, 200, 210), (1000, 1100, 0, 0), ("max", 300, 0, 5000)],
    ids=["used", "files are given up", "over its limit", "no limit"],
)
def test_a_group_has_what_its_limit_leaves(version, limit, used, files, left, tmp_path, monkeypatch):
    monkeypatch.setattr(main_memory, "_control_groups", lambda: [group(tmp_path, version, limit, used, files)])
    assert free_memory() == left


def test_the_narrowest_of_the_groups_around_decides(tmp_path, monkeypatch):
    groups = [group(tmp_path / "step", 2, "max"), group(tmp_path, 2, 400, 100), (tmp_path / "without files", 2)]
    monkeypatch.setattr(main_memory, "_control_groups", lambda: groups)
    assert free_memory() == 300


@pytest.mark.parametrize(
    "told, version, place",
    [("0::/job/step\n", 2, ""), ("8:pids:/x\n4:cpu,memory:/job/step\n0::/\n", 1, "memory")],
    ids=["version 2", "version 1"],
)
def test_a_process_is_in_its_group_and_those_around_it(told, version, place, tmp_path, monkeypatch):
    monkeypatch.setattr(main_memory, "GROUPS", tmp_path)
    group(tmp_path / place / "job", version, 400, 100)
    monkeypatch.setattr(main_memory.Path, "read_text", _in_place_of("/proc/self/cgroup", told))
    assert free_memory() == 300


def _in_place_of(path, text):
    read = main_memory.Path.read_text
    return lambda self, *given, **named: text if str(self) == path else read(self, *given, **named)


def test_half_of_what_is_free_is_pinned_and_of_what_moves_there(monkeypatch):
    visitors = choose_visitors(linears(4), 0)
    assert visitors and all(visitor.moving for visitor in visitors)
    monkeypatch.setattr(block_swap, "free_memory", lambda: 1000)
    moving = sum(visitor.moving for visitor in visitors)
    assert block_swap.pinned_by_default(visitors) == (1000 + moving) // 2
