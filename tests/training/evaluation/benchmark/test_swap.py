import tempfile

import pytest
import torch

from kaleido_core.offloading.memory_plan import RESERVE
from kaleido_core.placement import blocks_of, size_of
from training.evaluation.benchmark.mapped import mapped
from training.evaluation.benchmark.measure import GIB, Bench
from training.evaluation.benchmark.scale import TINY, random_transformer
from training.evaluation.benchmark.swap import Swapped, host_memory, peak_of, swap
from training.evaluation.benchmark.text import text

CPU = torch.device("cpu")


@pytest.mark.parametrize(("part", "homes"), [
    (swap, ["card", "pinned", "pinned", "pinned"]),
    (mapped, ["card", "mapped"]),
    (text, ["card", "pinned", "pinned", "pinned"]),
])  # fmt: skip
def test_blocks_that_visit_give_the_same_bits_and_what_is_foretold_fits_the_cap(part, homes, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    rows = [row for row in part(Bench(TINY, CPU)) if isinstance(row, Swapped)]
    assert [row.home for row in rows] == homes
    assert all(row.equal and row.cost.seconds > 0 for row in rows)
    whole, hardest = rows[:2]
    assert hardest.cap_gib == min(TINY.caps) and hardest.resident == 0 < whole.resident
    assert hardest.foretold_gib < whole.foretold_gib
    assert not list(tmp_path.glob("kaleido-*")), "no file of weights is left behind"


def test_the_foretold_peak_is_everything_with_all_blocks_there_and_within_the_room_otherwise():
    dit, work = random_transformer(TINY.dit, CPU), 1000.0
    blocks, room = blocks_of(dit), 0.9 * size_of(dit)
    assert peak_of(blocks, 4, work) == size_of(dit) + work
    assert peak_of(blocks, blocks.resident(room), work) <= room + work
    assert min(TINY.caps) * GIB > RESERVE, "else nothing would be left"


def test_main_memory_of_the_process_grows_with_what_it_holds():
    before = host_memory()
    if before is None:
        pytest.skip("this system does not tell")
    held = torch.ones(2**26)  # 256 MiB
    assert host_memory() == pytest.approx(before + held.nbytes / GIB, abs=0.1)
