"""Instances, not classes: who is linked, who stays apart, and what is no track."""

import numpy as np
import pytest

pytest.importorskip("cv2", reason="opencv-python-headless is not installed")

from training.curation.boxes import single
from training.curation.flow import Flow
from training.curation.models.kinds import Found
from training.curation.tracking import Spot, TrackingConfig, join, link, vote

from .world import Sprite, background

CONFIG = TrackingConfig()
RED, BLUE = np.array([1.0, 0, 0], np.float32), np.array([0, 0, 1.0], np.float32)


def stay(_, box):
    return box


def spot(frame, x, look, label="cat", score=0.8, y=100):
    return Spot(frame, (x, y, x + 60.0, y + 60.0), score, label, look)


def test_two_of_one_class_stay_two_tracks():
    frames = [[spot(n, 20 + 4 * n, RED), spot(n, 200 - 4 * n, BLUE)] for n in range(8)]
    tracks = link(frames, stay, CONFIG)
    assert sorted(len(track) for track in tracks) == [8, 8]
    assert all(len({tuple(s.look) for s in track}) == 1 for track in tracks)


def test_one_thing_with_two_labels_is_one_track_and_the_surer_label_wins():
    frames = [[spot(n, 20, RED, "dog" if n % 3 else "bear")] for n in range(9)]
    (track,) = link(frames, stay, CONFIG)
    assert vote(track) == ("dog", pytest.approx(6 / 9))


def test_twins_that_cross_end_their_tracks_instead_of_changing_places():
    frames = [[spot(n, 20 + 12 * n, RED), spot(n, 140 - 12 * n, RED)] for n in range(11)]
    for track in link(frames, stay, CONFIG):
        steps = np.diff([s.box[0] for s in track])
        assert (steps > 0).all() or (steps < 0).all()


def test_a_thing_hidden_for_a_moment_is_the_same_after_it():
    frames = [[spot(n, 20, RED)] if n not in (3, 4) else [] for n in range(8)]
    assert [len(track) for track in link(frames, stay, CONFIG)] == [6]


def test_pieces_of_one_thing_join_and_doubtful_ones_are_told():
    first, second = [spot(n, 20, RED) for n in range(5)], [spot(n, 200, RED) for n in range(6, 10)]
    joined, doubtful = join([tuple(first), tuple(second)], CONFIG)
    assert [len(track) for track in joined] == [9] and not doubtful
    like = np.array([0.8, 0, 0.6], np.float32)
    joined, doubtful = join([tuple(first), tuple(spot(n, 200, like) for n in range(6, 10))], CONFIG)
    assert len(joined) == 1 and doubtful[0][1] == pytest.approx(0.8)


def test_a_piece_that_could_be_either_of_two_is_told_as_doubtful():
    tracks = [tuple(spot(n, x, RED) for n in range(5)) for x in (20, 200)]
    _, doubtful = join([*tracks, tuple(spot(n, 100, RED) for n in range(6, 10))], CONFIG)
    assert len(doubtful) == 1


def test_a_thing_found_twice_is_kept_once():
    found = [Found("dog", (0, 0, 50, 50), 0.6), Found("bear", (2, 1, 52, 50), 0.4), Found("cat", (80, 0, 120, 50), 0.3)]
    assert [item.label for item in single(found)] == ["dog", "cat"]


def test_optical_flow_carries_a_box_along_with_what_moves():
    sprite, place = Sprite((200, 40, 40)), background(2)
    pictures = [sprite.draw(place, x, 120) for x in (120, 132)]
    box = Flow(pictures).move(0, sprite.box(120, 120))
    assert box[0] == pytest.approx(sprite.box(132, 120)[0], abs=4)


def test_what_the_camera_passes_does_not_move_by_itself():
    sprite = Sprite((200, 40, 40))
    wide = background(2, 240, 400)
    wide = sprite.draw(wide, 200, 120)
    panned = Flow([wide[:, 20:340], wide[:, 32:352]])
    assert panned.alone(0, sprite.box(180, 120)) < 0.02
    walked = Flow([sprite.draw(background(2), x, 120) for x in (150, 162)])
    assert walked.alone(0, sprite.box(150, 120)) > 0.05
