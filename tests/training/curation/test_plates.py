"""A clean plate shows the place and nobody in it, or there is none."""

import numpy as np
import pytest

pytest.importorskip("cv2", reason="opencv-python-headless is not installed")

from training.curation import footage
from training.curation.plates import Plates, PlatesConfig, backgrounds, median_plate, plate_path
from training.curation.stage import Place

from .world import ColourSegmenter, Fill, Film, PlantedDetector, Sprite, background, clip_of

RED = Sprite((210, 40, 40))


def run(tmp_path, monkeypatch, pictures, detector):
    monkeypatch.setattr(footage, "frames", Film({"a": pictures}).frames)
    stage = Plates(PlatesConfig(), lambda: detector, ColourSegmenter, Fill)
    (made,) = stage.one(clip_of("a"), Place(tmp_path))
    return made


def crossing():
    return [RED.draw(background(5), 40 + 12 * n, 120) for n in range(20)]


def test_a_subject_that_crosses_leaves_the_place_as_it_was(tmp_path, monkeypatch):
    made = run(tmp_path, monkeypatch, crossing(), PlantedDetector())
    plate = footage.read_picture(tmp_path / plate_path(made))
    assert np.abs(plate.astype(int) - background(5)).max() <= 1
    assert made.metrics["plate_unseen"] == 0 and backgrounds(made) == plate_path(made)


def test_a_subject_that_stays_is_never_seen_through(tmp_path, monkeypatch):
    pictures = [RED.draw(background(5), 160, 120)] * 20
    made = run(tmp_path, monkeypatch, pictures, PlantedDetector())
    assert "plate_unseen" not in made.metrics
    assert made.refused[-1].reason == "never seen"


def test_a_subject_that_the_detector_missed_refuses_the_plate(tmp_path, monkeypatch):
    pictures = [RED.draw(background(5), 160, 120)] * 20
    made = run(tmp_path, monkeypatch, pictures, PlantedDetector([(p, ()) for p in pictures]))
    assert made.refused[-1].reason == "subject left"
    assert not backgrounds(made)


def test_the_median_needs_a_free_view_of_every_pixel():
    pictures = [np.full((8, 8, 3), value, np.uint8) for value in (10, 20, 30)]
    plate, seen = median_plate(pictures, [[(0, 0, 4, 8)], [(0, 0, 4, 8)], [(0, 0, 4, 8)]], views=3)
    assert (plate[:, 4:] == 20).all() and seen[:, 4:].all() and not seen[:, :4].any()
