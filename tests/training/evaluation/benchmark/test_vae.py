import torch

from training.evaluation.benchmark import vae as part
from training.evaluation.benchmark.measure import Bench, Note
from training.evaluation.benchmark.scale import TINY
from training.evaluation.benchmark.vae import Coded, Seam, clip_of, vae


def test_every_way_is_measured_and_tiles_leave_no_seams(monkeypatch):
    monkeypatch.setattr(part, "PATIENCE", 0.0)  # one repeat of each
    rows = list(vae(Bench(TINY, torch.device("cpu"))))
    coded = {(row.name, row.clip) for row in rows if isinstance(row, Coded)}
    small, large = clip_of(TINY.size), clip_of(TINY.large)
    for call in ("encode", "decode"):
        ways = {(call, small), (f"{call}, tiled", small), (f"{call}, plain layout", small), (call, large)}
        assert ways | {(f"{call}, capped", large)} <= coded
    assert [row.difference < 1e-5 for row in rows if isinstance(row, Seam)] == [True] * 12
    notes = [row.name for row in rows if isinstance(row, Note)]
    assert notes == ["ComfyUI"], "that no checkout was named is said, and nothing failed"
