"""What else may lie on a mask: things beside it, inside of its box, and those that are only found a moment later."""

import numpy as np
import pytest

pytest.importorskip("cv2", reason="opencv-python-headless is not installed")

from training.curation.clip import Box
from training.curation.scene import Scene, several
from training.curation.tracking import Spot

BODY: Box = (20, 10, 60, 90)


def spot(frame: int, box: Box) -> Spot:
    return Spot(frame, box, 0.5, "dog", np.ones(1, np.float32))


def crowding(*others: Spot, long: tuple[Spot, ...] = ()) -> dict[str, float]:
    """Of a body's mask of which every pixel is sure, in the second of four frames."""
    own = spot(1, BODY)
    frames = [[one for one in (own, *others, *long) if one.frame == number] for number in range(4)]
    mask = np.zeros((100, 100), np.uint8)
    mask[10:90, 20:60] = 255
    return Scene([], [], frames, [], [long] if long else []).crowding(own, mask)


def test_a_thing_beside_tells_how_much_of_the_mask_lies_in_its_box():
    assert crowding(spot(1, (50, 10, 100, 90)))["crowded"] == pytest.approx(0.25)
    assert crowding(spot(1, (70, 10, 100, 90)))["crowded"] == 0


def test_a_lasting_thing_that_is_not_found_in_this_frame_is_still_there():
    assert crowding(long=(spot(2, (50, 10, 100, 90)), spot(3, (50, 10, 100, 90))))["crowded"] == pytest.approx(0.25)
    assert crowding(spot(2, (50, 10, 100, 90)))["crowded"] == 0


def test_a_smaller_thing_in_the_box_is_a_part_and_two_of_them_side_by_side_are_several():
    one = crowding(spot(1, (20, 10, 60, 40)))
    assert (one["part"], one["several"], one["crowded"]) == (pytest.approx(0.375), 0, 0)
    assert crowding(spot(1, (20, 10, 40, 90)), spot(1, (41, 10, 60, 90)))["several"] == pytest.approx(0.475)


def test_a_head_and_its_body_are_one():
    assert several(BODY, [(20, 10, 60, 40), (20, 30, 60, 90)]) == 0
