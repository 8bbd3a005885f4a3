from dataclasses import replace

import pytest

from kaleido_core import VideoSize
from kaleido_core.offloading.cards import CARDS, H200
from kaleido_core.offloading.memory_plan import GIB, Machine, Work, plan_memory
from kaleido_core.offloading.plan_report import first_change, report, seconds

OFFICIAL = Work(VideoSize(81, 512, 896), references=3)


def planned(vram: float, ram: float, work: Work = OFFICIAL):
    return plan_memory(work, Machine(vram * GIB, ram * GIB))


def test_the_table_adds_up():
    text = report(planned(12, 32))
    rows = {line[:25].strip(): line[25:].split() for line in text.splitlines()}
    names = ["text encoder", "autoencoder", "resident blocks", "ring of visiting blocks", "other transformer weights"]
    for column in range(4):
        parts = [rows[name][column] for name in (*names, "activations", "kept free")]
        total = sum(float(part) for part in parts if part != "-")
        assert total == pytest.approx(float(rows["on the card"][column]), abs=0.03)
    assert "10 of 40 blocks stay" in text and text.endswith("It fits.")


def test_what_does_not_fit_comes_with_a_change_that_fits():
    for vram, ram in ((5, 32), (5, 18)):
        change = first_change(OFFICIAL, Machine(vram * GIB, ram * GIB))
        assert change and change.plan.fits and change.options in report(planned(vram, ram))
    assert "--eight-bit int8 (then 4.9 GiB" in report(planned(5, 32))


def test_numbers_are_changed_before_frames_and_frames_before_pixels():
    long, wide = VideoSize(121, 720, 1280), VideoSize(5, 2048, 2048)
    changes = [
        first_change(replace(OFFICIAL, size=size), Machine(vram * GIB, 64 * GIB))
        for size, vram in ((long, 9), (long, 8), (wide, 6))
    ]
    numbers, frames, pixels = (change.options if change else "" for change in changes)
    assert numbers == "--eight-bit int8" and frames == "--frames 65"
    assert pixels.endswith("--size 1536x1536")


def test_too_little_main_memory_for_eight_bits_is_cured_by_the_files_own_numbers():
    change = first_change(replace(OFFICIAL, weight_bytes=1.0), Machine(12 * GIB, 8 * GIB))
    assert change and change.options == "no --eight-bit"


def test_where_nothing_helps_it_says_what_would_be_needed():
    assert first_change(OFFICIAL, Machine(3 * GIB, 64 * GIB)) is None
    assert "no option makes it fit: the least is" in report(planned(3, 64))


def test_swapping_costs_no_time_until_the_disk_is_read():
    """As measured: 1.00 of the resident time for every number of resident blocks."""
    assert seconds(planned(6, 64), H200)[2] == seconds(planned(100, 64), H200)[2] == pytest.approx(421, rel=0.01)
    assert seconds(planned(6, 16), H200)[2] > 2 * seconds(planned(6, 64), H200)[2]
    assert "GiB from the disk" in report(planned(6, 16))


def test_every_card_but_the_measured_one_is_called_an_estimate():
    measured, others = report(planned(12, 32)).splitlines()[-4:-2]
    assert "measured" in measured and "estimates" in others
    assert all(card.name in others for card in CARDS[1:])
