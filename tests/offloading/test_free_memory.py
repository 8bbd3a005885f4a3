"""How much main memory is left, where a control group has less than the machine."""

import pytest

from kaleido_core.offloading import copies
from kaleido_core.offloading.copies import free_memory


def group(folder, limit, used=0, files=0):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon {used - files}\nactive_file {files // 2}\ninactive_file {files // 2}\n")
    return folder


@pytest.mark.parametrize(
    "limit, used, files, left",
    [(1000, 300, 0, 700), (1000, 990, 200, 210), (1000, 1100, 0, 0), ("max", 300, 0, 5000)],
    ids=["used", "files are given up", "over its limit", "no limit"],
)
def test_a_group_has_what_its_limit_leaves(limit, used, files, left, tmp_path, monkeypatch):
    monkeypatch.setattr(copies, "_system_memory", lambda: 5000)
    monkeypatch.setattr(copies, "_control_groups", lambda: [group(tmp_path, limit, used, files)])
    assert free_memory() == left


def test_the_narrowest_of_the_groups_around_decides(tmp_path, monkeypatch):
    around = group(tmp_path / "job", 400, 100)
    groups = [group(around / "step", "max"), around, tmp_path / "without files"]
    monkeypatch.setattr(copies, "_system_memory", lambda: 5000)
    monkeypatch.setattr(copies, "_control_groups", lambda: groups)
    assert free_memory() == 300


def test_this_process_has_some():
    assert 0 < free_memory() <= copies._system_memory() * 1.1  # others' share changes between the two
