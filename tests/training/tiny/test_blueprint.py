import numpy as np

from training.tiny.blueprint import PAPER, SUBJECTS, as_blueprint, captions


def test_all_clips_differ_and_the_robot_is_kept_for_trying():
    found = captions(20)
    assert len({caption for _, caption in found}) == 20
    assert {name for names, _ in found for name in names} == set(SUBJECTS)
    assert not any("robot" in caption for _, caption in found)


def test_lines_stand_where_brightness_changes_and_all_else_is_paper():
    frames = np.zeros((2, 32, 32, 3), np.uint8)
    frames[:, :, 16:] = 200
    drawn = as_blueprint(frames).astype(int)
    assert drawn[:, 8:24, 15:17].min(-1).min() > 150
    assert np.abs(drawn[:, 8:24, :12] - np.array(PAPER) * 255).max() < 2
