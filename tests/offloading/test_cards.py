import pytest

from kaleido_core import KALEIDO_14B
from kaleido_core.offloading.cards import (
    CARDS,
    DECODE,
    DECODE_TILES,
    ENCODE,
    H200,
    duration,
    forward_seconds,
    pixel_seconds,
)

FRAME, LARGE = 512 * 896, 720 * 1280


@pytest.mark.parametrize(
    ("foretold", "measured"),  # seconds on an H200
    [
        (forward_seconds(KALEIDO_14B, 43_008, False, H200), 4.15),
        (forward_seconds(KALEIDO_14B, 43_008, True, H200), 3.51),
        (forward_seconds(KALEIDO_14B, 43_008, True, H200), 3.60),
        (pixel_seconds(DECODE, 81 * FRAME, 2, H200), 1.17),
        (pixel_seconds(DECODE, 81 * LARGE, 2, H200), 2.38),
        (pixel_seconds(DECODE_TILES, 81 * FRAME, 2, H200), 1.4965),
        (pixel_seconds(ENCODE, 81 * FRAME, 2, H200), 0.745),
    ],
)
def test_seconds_are_the_measured_ones(foretold: float, measured: float):
    assert foretold == pytest.approx(measured, rel=0.03)


def test_other_cards_are_slower_by_their_arithmetic_and_say_that_they_are_estimates():
    times = [forward_seconds(KALEIDO_14B, 43_008, False, card) for card in CARDS]
    assert times == sorted(times) and times[2] / times[0] == pytest.approx(989 / 165)
    assert [card.measured for card in CARDS] == [True] + [False] * (len(CARDS) - 1)


@pytest.mark.parametrize(("seconds", "said"), [(4.2, "4 s"), (300, "5 min"), (7200, "2.0 h")])
def test_durations_are_said_in_one_unit(seconds: float, said: str):
    assert duration(seconds) == said
