"""What of the background lies inside a mask is told by its colours."""

import numpy as np
import pytest

pytest.importorskip("cv2", reason="opencv-python-headless is not installed")

from training.curation.cutting import crop_of, in_frame
from training.curation.foreign import foreign

GRASS, FUR, EAR, WHITE = (70, 150, 40), (150, 140, 140), (200, 130, 130), (255, 255, 255)


def animal(patch=None, place=GRASS):
    """A grey thing in a meadow, with a patch of some colour near its rim."""
    chance = np.random.default_rng(1)
    picture = np.full((240, 320, 3), place, np.uint8)
    mask = np.zeros((240, 320), np.uint8)
    mask[60:200, 100:220] = 255
    picture[mask > 0] = FUR
    if patch:
        picture[150:164, 108:122] = patch
    noise = chance.integers(-6, 7, picture.shape)
    if place == WHITE:
        noise[mask == 0] = 0
    return *crop_of(np.clip(picture + noise, 0, 255).astype(np.uint8), mask), in_frame(mask)


def test_grass_inside_the_mask_is_foreign_and_a_pink_ear_is_not():
    assert foreign(*animal(), 20.0) == 0.0
    assert foreign(*animal(EAR), 20.0) == 0.0
    assert 0.005 < foreign(*animal(GRASS), 20.0) < 0.02


def test_what_hardly_differs_from_the_mask_beside_it_is_no_patch():
    grey = (160, 150, 140)
    assert foreign(*animal(grey, place=grey), 20.0) == 0.0


def test_colours_of_the_middle_are_the_subjects_own():
    crop, mask, real = animal(GRASS)
    crop = crop.copy()
    rows, columns = mask.shape
    crop[rows // 3 : 2 * rows // 3, columns // 3 : 2 * columns // 3] = GRASS
    assert foreign(crop, mask, real, 20.0) == 0.0


def test_a_studios_pure_white_is_a_place_and_what_lies_beyond_the_frame_is_none():
    crop, mask, real = animal(WHITE, place=WHITE)
    assert real.all() and foreign(crop, mask, real, 3.0) > 0.005
    assert foreign(crop, mask, np.zeros_like(real), 3.0) == 0.0
