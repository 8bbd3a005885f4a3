"""Every filter finds at least 95 % of what is planted, and at least 95 % of what it names was planted."""

from pathlib import Path

import pytest

pytest.importorskip("cv2", reason="opencv-python-headless is not installed")
pytest.importorskip("scenedetect", reason="scenedetect is not installed")

from .plants import PLANTS
from .score import Score
from .sets import EACH
from .table import duplicate_scores, quality_scores, shot_scores, table

ENOUGH = 0.95


def check(scores: tuple[Score, ...]) -> None:
    wrong = [score for score in scores if min(score.precision, score.recall) < ENOUGH]
    assert not wrong, f"\n{table(scores)}"
    assert all(score.planted >= EACH for score in scores)


def test_cuts_are_found_and_flashes_and_pans_are_none(tmp_path: Path):
    check(shot_scores(tmp_path))


def test_every_fault_is_found_by_its_own_name_and_clean_clips_are_kept(tmp_path: Path):
    scores = quality_scores(tmp_path)
    assert {score.name for score in scores} == set(PLANTS)
    check(scores)


def test_copies_are_found_and_look_alikes_are_none(tmp_path: Path):
    check(duplicate_scores(tmp_path))
