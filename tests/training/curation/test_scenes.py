"""A place takes the clip's shape, and keeps the ground."""

import numpy as np
import pytest

pytest.importorskip("cv2", reason="opencv-python-headless is not installed")

from training.curation.cutting import crop_of
from training.curation.masks import box_of
from training.curation.scenes import shaped
from training.curation.variants import SceneConfig, before

from .world import Sprite, background


@pytest.mark.parametrize(("height", "width", "shape"), [(450, 1280, (450, 800)), (720, 536, (302, 536))])
def test_strips_are_cut_to_the_clips_shape_and_keep_their_lower_border(height, width, shape):
    plate = background(3, height, width)
    made = shaped(plate, 16 / 9)
    left = (width - shape[1]) // 2
    assert np.array_equal(made, plate[-shape[0] :, left : left + shape[1]])


@pytest.mark.parametrize("grounded", [True, False])
def test_a_subject_takes_a_good_share_of_the_scene_and_stands_low_in_it(grounded):
    mask = np.where(Sprite((210, 40, 40)).area(160, 120), 255, 0).astype(np.uint8)
    crop, part = crop_of(background(1), mask)
    for seed in range(10):
        chance = np.random.default_rng(seed)
        _, area = before(crop, part, background(7, 720, 1280), SceneConfig(), chance, grounded)
        _, top, _, bottom = box_of(area)
        assert bottom - top > 0.5 * area.shape[0] and bottom > 0.8 * area.shape[0]
