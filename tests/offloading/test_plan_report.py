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
        for size, vram in ((long, 8.5), (long, 8), (wide, 6))
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
    assert seconds(planned(6, 64), H200)[2] == seconds(planned(100, 64), H200)[2] == pytest.approx(415, rel=0.01)
    assert seconds(planned(6, 16), H200)[2] > 2 * seconds(planned(6, 64), H200)[2]
    assert "GiB from the disk" in report(planned(6, 16))


def test_forwards_without_references_and_first_blocks_alone_take_less_time():
    machine = (24, 64)
    plain, third = (seconds(planned(*machine, replace(OFFICIAL, bare_forwards=bare)), H200)[2] for bare in (0, 50))
    assert 0.7 * plain / 2 < third - plain < plain / 2, "50 of fewer tokens come to 100"
    saved = planned(*machine, replace(OFFICIAL, whole=0.5, cached_branches=2))
    assert seconds(saved, H200)[2] == pytest.approx(plain * (0.5 + 0.5 / 40))
    text = report(planned(*machine, replace(OFFICIAL, bare_forwards=50, whole=0.47)))
    assert "100 forwards of 2.56 PFLOP, 50 without references of 2.08" in text and "runs 47 % of them whole" in text


def test_where_merged_weights_are_too_many_for_main_memory_they_are_merged_into_a_file():
    work = replace(OFFICIAL, merged_bytes=25.0 * GIB)
    change = first_change(work, Machine(24 * GIB, 16 * GIB))
    assert change and change.options == "the file that convert --lora writes"
    both = first_change(work, Machine(5 * GIB, 32 * GIB))
    assert both and both.options == "the file that convert --lora writes, --eight-bit int8"


def test_every_card_but_the_measured_one_is_called_an_estimate():
    measured, others = report(planned(12, 32)).splitlines()[-4:-2]
    assert "measured" in measured and "estimates" in others
    assert all(card.name in others for card in CARDS[1:])


def test_files_of_other_types_need_main_memory_for_what_is_made_of_them():
    plan = planned(8, 16)
    assert plan.fits and plan.ram_converting == pytest.approx((3 + 26.61 + 0.42) * GIB, rel=0.01)
    assert "convert --dtype bf16" in report(plan)


def test_what_is_lacking_least_is_told_with_its_options():
    told = report(planned(12, 4)).splitlines()[-1]
    assert "no option makes it fit: the least is" in told and "of main memory" in told and ", with --" in told
