"""The set itself: what it plants is there, and nothing else."""

from pathlib import Path

import numpy as np
import pytest

from .plants import INK, PLANTS
from .scene import Scene, draw
from .score import Score, by_filter, of_moments
from .sets import copies, films, spoilt_clips

CALM = Scene(1, seconds=0.5, width=320, height=240)


def test_a_seed_draws_the_same_scene_again_and_another_seed_another():
    assert np.array_equal(draw(CALM), draw(CALM))
    assert not np.array_equal(draw(CALM), draw(Scene(2, seconds=0.5, width=320, height=240)))


@pytest.mark.parametrize("name", PLANTS)
def test_every_plant_changes_a_clip_and_a_stronger_one_changes_it_otherwise(name: str):
    def spoilt(strength: float):
        return PLANTS[name].frames(draw(PLANTS[name].scene(CALM, strength)), strength)

    weak, strong = spoilt(0.0), spoilt(1.0)
    assert not np.array_equal(weak, draw(CALM))
    assert not np.array_equal(weak, strong)


def test_planted_text_is_ink_that_no_photograph_has():
    clean = draw(CALM)
    spoilt = PLANTS["text"].frames(clean, 0.5)
    assert not np.all(clean == INK, axis=3).any()
    assert np.all(spoilt == INK, axis=3).mean() > 0.004


def test_a_set_holds_what_it_says(tmp_path: Path):
    made = spoilt_clips(tmp_path, each=2, clean=1)
    assert len(made) == 1 + 2 * len(PLANTS)
    assert all(one.path.stat().st_size > 500 for one in made)
    (film,) = films(tmp_path, 1)
    assert 2 <= len(film.cuts) <= 4
    first, second, alone = copies(tmp_path, 1)
    assert (first.copy_of, second.copy_of, alone.copy_of) == ("", first.name, "")


def test_precision_counts_what_was_told_and_recall_what_was_planted():
    truth = {"a": "dark", "b": "dark", "c": "", "d": "blurry"}
    told = {"a": "dark", "b": "", "c": "dark", "d": "dark"}
    blurry, dark = by_filter(truth, told)
    assert dark == Score("dark", planted=2, told=3, found=1)
    assert (blurry.precision, blurry.recall) == (1.0, 0.0)


def test_a_moment_told_answers_one_true_moment():
    assert of_moments("cut", [((1.0, 1.05), (1.02,)), ((), (3.0,))]) == Score("cut", planted=2, told=2, found=1)
