"""What of the background lies inside a mask is told by its colours."""

import numpy as np
import pytest

pytest.importorskip("cv2", reason="opencv-python-headless is not installed")

from training.curation.cutting import crop_of
from training.curation.foreign import foreign

GRASS, FUR, EAR = (70, 150, 40), (150, 140, 140), (200, 130, 130)


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
    return crop_of(np.clip(picture + noise, 0, 255).astype(np.uint8), mask)


def test_grass_inside_the_mask_is_foreign_and_a_pink_ear_is_not():
    assert foreign(*animal(), 20.0) == 0.0
    assert foreign(*animal(EAR), 20.0) == 0.0
    assert 0.005 < foreign(*animal(GRASS), 20.0) < 0.02


def test_what_hardly_differs_from_the_mask_beside_it_is_no_patch():
    grey = (160, 150, 140)
    assert foreign(*animal(grey, place=grey), 20.0) == 0.0


def test_colours_of_the_middle_are_the_subjects_own():
    crop, mask = animal(GRASS)
    crop = crop.copy()
    rows, columns = mask.shape
    crop[rows // 3 : 2 * rows // 3, columns // 3 : 2 * columns // 3] = GRASS
    assert foreign(crop, mask, 20.0) == 0.0
