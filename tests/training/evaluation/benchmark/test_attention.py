import torch

from training.evaluation.benchmark.attention import Attended, attention
from training.evaluation.benchmark.measure import Bench, Note
from training.evaluation.benchmark.scale import TEXT_ROWS, TINY


def test_kernels_that_work_are_measured_against_float32_and_the_others_named():
    rows = list(attention(Bench(TINY, torch.device("cpu"))))
    measured = [row for row in rows if isinstance(row, Attended)]
    assert [(row.name, row.keys) for row in measured] == [("flash", TINY.tokens), ("flash", TEXT_ROWS)]
    assert all(0 < row.error < 1e-2 and row.tflops > 0 for row in measured)
    assert any("cudnn" in row.text for row in rows if isinstance(row, Note))
