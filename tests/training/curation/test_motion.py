"""Motion is measured in pixels, and what the camera does is told from what moves by itself."""

import numpy as np
import pytest

pytest.importorskip("cv2", reason="opencv-python-headless is not installed")

from training.curation.models.kinds import Pixels
from training.curation.motion import camera_flow, measure_motion

from .films import noise

WIDE = noise(1, 256, 700, 16)[..., 0]


def pan(step: int, count: int = 6) -> list[Pixels]:
    return [np.ascontiguousarray(WIDE[:, step * n : step * n + 448]) for n in range(count)]


def test_a_pan_is_all_camera():
    motion = measure_motion(pan(4))
    assert motion.all == pytest.approx(4, rel=0.15)
    assert motion.camera == pytest.approx(4, rel=0.15)
    assert motion.own < 1 and motion.still == 0


def test_a_thing_that_moves_before_a_still_camera_is_none_of_it():
    frames = [pan(0, 1)[0].copy() for _ in range(6)]
    for number, frame in enumerate(frames):
        frame[80:180, 100 + 5 * number : 200 + 5 * number] = noise(2, 100, 100, 10)[..., 0]
    motion = measure_motion(frames)
    assert motion.camera < 0.3
    assert motion.own == pytest.approx(5, rel=0.3)


def test_nothing_moves_in_a_frozen_clip():
    motion = measure_motion(pan(0))
    assert (motion.still, motion.all) == (1.0, pytest.approx(0, abs=0.05))


def test_one_frame_is_a_frozen_clip():
    assert measure_motion(pan(0, 1)).still == 1.0


def test_a_zoom_is_explained_by_the_camera():
    rows, columns = np.mgrid[:128, :224].astype(np.float32)
    flow = np.stack([(columns - 112) * 0.05, (rows - 64) * 0.05], -1)
    assert np.abs(camera_flow(flow) - flow).max() < 0.05


def test_a_mark_stays_while_the_camera_moves_and_a_clean_pan_has_none():
    marked = [frame.copy() for frame in pan(6, 12)]
    for frame in marked:
        frame[10:40, 380:440] = np.where(noise(3, 30, 60, 6)[..., 0] > 128, 255, 0)
    clean, found = measure_motion(pan(6, 12)).mark, measure_motion(marked).mark
    assert clean is not None and found is not None
    assert clean < 0.002 < 0.004 < found


def test_a_camera_that_trembles_tells_nothing_of_marks():
    steps = [0, 1, 0, 1, 0, 1]
    frames = [np.ascontiguousarray(WIDE[:, step : step + 448]) for step in steps]
    assert measure_motion(frames).mark is None


def test_without_a_camera_that_moves_nothing_can_be_said_of_marks():
    assert measure_motion(pan(0)).mark is None
