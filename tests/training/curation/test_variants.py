"""Changed pictures stay the subject's, on white or before a place."""

import numpy as np
import pytest

pytest.importorskip("cv2", reason="opencv-python-headless is not installed")

from training.curation.cutting import crop_of, in_frame, on_white
from training.curation.pose import pose_difference, same_colours, surroundings
from training.curation.variants import ChangeConfig, SceneConfig, before, changed, leaning, restored

from .world import Fill, Sprite, background

RED = Sprite((210, 40, 40))


def cut(lean=0.0):
    sprite = Sprite(RED.colour, lean=lean)
    mask = np.where(sprite.area(160, 120), 255, 0).astype(np.uint8)
    return crop_of(sprite.draw(background(1), 160, 120), mask)


class Asked(Fill):
    """Remembers what it is asked for."""

    def __init__(self):
        self.prompts = []

    def fill(self, picture, mask, prompt=""):
        self.prompts.append(prompt)
        return super().fill(picture, mask, prompt)


def test_a_changed_picture_is_whole_and_white_outside_its_mask():
    for seed in range(10):
        picture, mask = changed(*cut(), ChangeConfig(), np.random.default_rng(seed))
        assert (picture[mask == 0] == 255).all()
        assert not mask[[0, -1]].any() and not mask[:, [0, -1]].any()
        assert 0.6 < (mask >= 128).sum() / (cut()[1] >= 128).sum() < 1.2


def test_the_same_chance_makes_the_same_picture_and_another_another():
    first, again, other = (changed(*cut(), ChangeConfig(), np.random.default_rng(seed))[0] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert first.shape != other.shape or not np.array_equal(first, other)


def test_a_subject_before_a_place_leaves_the_rest_of_the_place_alone():
    plate = background(7, 512, 910)
    scene, area = before(*cut(), plate, SceneConfig(), np.random.default_rng(3), grounded=True)
    assert scene.shape == plate.shape
    assert np.array_equal(scene[area == 0], plate[area == 0])
    assert (area[-6:] >= 128).any(), "a subject that the frame cut stands on the lower border"
    assert ((area > 20) & (area < 235)).any(), "the edge is soft"


def test_what_an_occluder_took_is_filled_when_it_is_little():
    crop, mask = cut()
    height, width = mask.shape
    mask[height // 2 - 2 : height // 2 + 2, : width // 3] = 0
    fill = Asked()
    made = restored(crop, mask, "cat", fill, most=0.05)
    assert made is not None and (made[1] >= 128).sum() > (mask >= 128).sum()
    assert fill.prompts == ["a photo of the whole cat"], "without a prompt an empty place would be painted"
    mask[height // 2 :] = 0
    assert restored(crop, mask, "cat", fill, most=0.0001) is None


def test_pose_difference_is_nothing_for_the_same_and_small_for_the_moved_and_lit():
    crop, mask = cut()
    assert pose_difference((crop, mask), (crop, mask)) == pytest.approx(0, abs=1e-6)
    brighter = np.clip(crop.astype(int) * 1.2 + 10, 0, 255).astype(np.uint8)
    assert pose_difference((crop, mask), (brighter, mask)) < 0.08
    assert pose_difference((crop, mask), cut(0.9)) > 0.3


def test_a_crop_at_the_border_is_white_beyond_it():
    mask = np.zeros((240, 320), np.uint8)
    mask[200:, 100:200] = 255
    crop, part = crop_of(np.zeros((240, 320, 3), np.uint8), mask)
    assert (crop[-2:] == 255).all() and (part[-2:] == 0).all()
    assert (on_white(crop, part)[part == 0] == 255).all()
    assert np.array_equal(in_frame(mask), ~(crop == 255).all(axis=2))


def test_what_leans_keeps_its_level_cut_and_is_in_another_pose():
    picture, mask = cut()
    mask[mask.shape[0] // 2 :] = 0
    for seed in range(10):
        made = changed(picture, mask, ChangeConfig(), np.random.default_rng(seed), leaning)
        rows = [np.flatnonzero(column >= 128).max() for column in made[1].T if (column >= 128).sum() > 20]
        assert max(rows) - min(rows) <= 1
        assert pose_difference(made, (picture, mask)) > 0.05


def test_surroundings_are_what_is_around_a_subject_and_not_beyond_the_frame():
    crop, mask = cut()
    red, blue = np.full_like(crop, (200, 60, 60)), np.full_like(crop, (60, 60, 200))
    for place in (red, blue):
        place[mask >= 128] = crop[mask >= 128]
    real = np.ones(mask.shape, np.bool_)
    assert same_colours(surroundings(red, mask, real), surroundings(blue, mask, real)) < 0.1
    beyond, real = red.copy(), real.copy()
    beyond[:3], real[:3] = 255, False
    assert same_colours(surroundings(red, mask, real), surroundings(beyond, mask, real)) > 0.95


def test_a_pure_white_place_counts_as_surroundings():
    crop, mask = cut()
    white = np.where(mask[..., None] >= 128, crop, 255).astype(np.uint8)
    assert surroundings(white, mask, np.ones(mask.shape, np.bool_)).sum() == pytest.approx(1)
