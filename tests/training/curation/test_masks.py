"""What a clean mask is, and that each fault is refused by its name."""

import numpy as np
import pytest

pytest.importorskip("cv2", reason="opencv-python-headless is not installed")

from training.curation.masks import (
    MaskConfig,
    Rival,
    bitten,
    box_of,
    clean,
    fill_holes,
    largest,
    lost_part,
    overlap_of,
    sharpness,
    tidy,
)

from .world import Sprite, background

RED = Sprite((200, 40, 40))
CONFIG = MaskConfig()


def planted(x: float = 160, y: float = 120):
    picture = RED.draw(background(1), x, y)
    return picture, np.where(RED.area(x, y), 255, 0).astype(np.uint8), RED.box(x, y)


def fault(picture, mask, box, rivals=()):
    drop = clean(picture, mask, box, 0.8, rivals, CONFIG).fault
    return drop and drop.reason


def test_a_whole_thing_passes_and_comes_back_as_it_was():
    picture, mask, box = planted()
    made = clean(picture, mask, box, 0.8, (), CONFIG)
    assert made.fault is None
    assert overlap_of(made.mask, mask) > 0.97


def test_small_holes_are_filled_and_large_ones_stay():
    _, mask, _ = planted()
    area = mask >= 128
    area[118:122, 158:162] = False
    small = fill_holes(area, 0.02)
    assert small[120, 160]
    area[100:140, 140:180] = False
    assert not fill_holes(area, 0.02)[120, 160]


def test_the_largest_part_is_kept_with_its_share():
    area = np.zeros((60, 60), bool)
    area[5:35, 5:35], area[40:50, 40:50] = True, True
    kept, share = largest(area)
    assert kept.sum() == 900 and share == pytest.approx(0.9)


def test_scattered_parts_are_refused():
    picture, mask, box = planted()
    mask[:, 150:170] = 0
    assert fault(picture, mask, box) == "mask largest"


def test_a_mask_that_goes_on_outside_the_picture_is_refused_at_the_sides_but_not_below():
    picture, mask, box = planted(x=20)
    assert fault(picture, mask, box) == "mask border"
    picture, mask, box = planted(y=212)
    assert fault(picture, mask, box) is None


def test_a_box_that_cuts_a_thing_is_refused():
    picture, mask, box = planted()
    assert fault(picture, mask, (box[0], box[1], box[2], 125.0)) == "mask cut"


def test_a_rival_of_higher_score_over_a_quarter_of_the_mask_drops_it():
    picture, mask, box = planted()
    rival = Rival((box[0], box[1], 150.0, box[3]), 0.9, None)
    assert fault(picture, mask, box, [rival]) == "mask shared"
    assert fault(picture, mask, box, [Rival(rival.box, 0.5, None)]) is None


def test_pixels_that_two_masks_claim_belong_to_neither():
    picture, mask, box = planted()
    other = np.zeros_like(mask)
    other[:, 199:] = 255
    made = clean(picture, mask, box, 0.8, [Rival((199.0, 80.0, 280.0, 160.0), 0.5, other)], CONFIG)
    assert made.fault is None and not made.mask[:, 200:].any()
    other[:, 140:] = 255
    assert fault(picture, mask, box, [Rival((140.0, 80.0, 280.0, 160.0), 0.5, other)]) == "mask contested"


def test_an_outline_that_follows_nothing_in_the_picture_is_refused():
    _, mask, box = planted()
    smooth = np.repeat(np.linspace(60, 160, 320).astype(np.uint8)[None, :, None], 240, 0).repeat(3, 2)
    assert fault(smooth, mask, box) == "mask edge"


def test_a_half_sure_mask_is_refused():
    picture, mask, box = planted()
    assert fault(picture, (mask * 0.6).astype(np.uint8), box) == "mask unsure"


def test_a_blurred_picture_is_less_sharp_and_white_around_the_mask_does_not_count():
    cv2 = pytest.importorskip("cv2")
    picture, mask, _ = planted()
    blurred = cv2.GaussianBlur(picture, (0, 0), 4)
    assert sharpness(blurred, mask) < 0.1 * sharpness(picture, mask)


def test_the_box_of_a_mask_is_tight():
    mask = np.zeros((10, 20), np.uint8)
    mask[2:5, 7:11] = 255
    assert box_of(mask) == (7.0, 2.0, 11.0, 5.0)


def test_a_mask_that_misses_a_part_of_what_was_found_is_refused():
    picture, mask, box = planted()
    mask[:105] = 0
    assert fault(picture, mask, box) == "mask agrees"


def test_a_blade_before_a_thing_leaves_a_notch_and_a_wide_gap_is_none():
    area = planted()[1] >= 128
    assert bitten(area) == 0.0
    blade, gap = area.copy(), area.copy()
    blade[120:, 158:162] = False
    gap[120:, 140:180] = False
    assert bitten(blade) > 0.015 and bitten(gap) < 0.004
    assert bitten(area[:120]) == 0.0, "what the frame cuts has no notch there"


def test_an_ear_that_one_of_two_looks_lacks_is_a_lost_part_and_a_rim_is_none():
    _, mask, _ = planted()
    eared = mask.copy()
    eared[60:85, 155:170] = 255
    assert lost_part(mask, eared) > 0.03 and lost_part(eared, mask) > 0.03
    assert lost_part(mask, np.where(Sprite((0, 0, 0), radius=45).area(160, 120), 255, 0).astype(np.uint8)) == 0.0


def test_what_was_filled_is_told():
    picture, mask, box = planted()
    assert clean(picture, mask, box, 0.8, (), CONFIG).scores["filled"] == 0.0
    mask[115:120, 155:165] = 0
    assert clean(picture, mask, box, 0.8, (), CONFIG).scores["filled"] > 0.005


def test_a_tidy_mask_is_that_of_a_thing_alone():
    picture, mask, box = planted()
    mask[10:20, 10:20] = 255
    assert np.array_equal(tidy(mask, box, CONFIG), clean(picture, mask, box, 0.8, (), CONFIG).mask)
