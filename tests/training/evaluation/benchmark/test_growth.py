import pytest
import torch

from kaleido_core import KALEIDO_14B
from kaleido_core.offloading.arithmetic import attention_flops, product_flops
from training.evaluation.benchmark.growth import Deviation, Fit, Grown, deviations, growth
from training.evaluation.benchmark.measure import Bench, Cost
from training.evaluation.benchmark.scale import TINY


def test_seconds_of_two_rates_are_foretold_by_two_and_not_by_one():
    def grown(tokens: int) -> Grown:
        seconds = product_flops(KALEIDO_14B, tokens) / 700e12 + attention_flops(KALEIDO_14B, tokens) / 500e12
        return Grown(str(tokens), 0, 0, tokens, Cost(seconds, seconds, seconds, 0, 0, 0), 0)

    rows = list(deviations(KALEIDO_14B, [grown(tokens) for tokens in (5376, 21504, 43008, 60928)]))
    one, two = (row for row in rows if isinstance(row, Fit))
    assert (two.products, two.attention) == pytest.approx((700, 500), rel=1e-6)
    assert two.largest < 1e-6 < 1 < one.largest
    assert len([row for row in rows if isinstance(row, Deviation)]) == 4


def test_all_lengths_and_numbers_of_references_are_measured():
    rows = list(growth(Bench(TINY, torch.device("cpu"))))
    measured = {(row.frames, row.references): row.tokens for row in rows if isinstance(row, Grown)}
    assert measured == {(frames, count): 6 * ((frames + 3) // 4 + count) for frames in (5, 9) for count in range(4)}
