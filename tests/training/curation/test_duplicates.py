"""Near-duplicates: what only looks encoded anew goes, what only resembles stays, and the better one is kept."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("cv2", reason="opencv-python-headless is not installed")

from training.curation import footage
from training.curation.clip import Clip
from training.curation.duplicates import Duplicates, DuplicatesConfig, hash_of
from training.curation.models.kinds import Pixels
from training.curation.stage import Place

from .films import noise
from .world import Film, clip_of


def film(seed: int) -> list[Pixels]:
    """Twenty frames of a slow pan over one of many places."""
    wide = noise(seed, 120, 260, 30)
    return [np.ascontiguousarray(wide[:, 2 * n : 2 * n + 160]) for n in range(20)]


def judged(monkeypatch: pytest.MonkeyPatch, tmp_path, clips: dict[str, list[Pixels]], **scores: float):
    monkeypatch.setattr(footage, "frames", Film(clips).frames)
    made = [replace(clip_of(name), metrics={"sharp": scores.get(name, 50.0)}) for name in clips]
    return {clip.id: clip for clip in Duplicates(DuplicatesConfig()).all(made, Place(tmp_path))}


def dropped(clips: dict[str, Clip]) -> set[str]:
    return {name for name, clip in clips.items() if clip.dropped}


def noisy(picture: Pixels) -> Pixels:
    grain = np.random.default_rng(1).normal(0, 6, picture.shape)
    return (picture + grain).clip(0, 255).astype(np.uint8)


def smaller(picture: Pixels) -> Pixels:
    return picture[::2, ::2]


def brighter(picture: Pixels) -> Pixels:
    return (picture * 0.9 + 20).astype(np.uint8)


@pytest.mark.parametrize("change", [noisy, smaller, brighter])
def test_a_copy_that_was_changed_a_little_is_dropped(
    monkeypatch: pytest.MonkeyPatch, tmp_path, change: Callable[[Pixels], Pixels]
):
    clips = {"a": film(1), "b": [change(picture) for picture in film(1)]}
    made = judged(monkeypatch, tmp_path, clips, b=20.0)
    assert dropped(made) == {"b"}
    drop = made["b"].dropped
    assert drop and (drop.stage, drop.reason, drop.detail) == ("duplicates", "copy", "a")


def test_clips_of_other_places_are_all_kept(monkeypatch: pytest.MonkeyPatch, tmp_path):
    assert dropped(judged(monkeypatch, tmp_path, {str(seed): film(seed) for seed in range(12)})) == set()


def test_one_of_many_copies_is_kept_the_sharpest(monkeypatch: pytest.MonkeyPatch, tmp_path):
    clips = {name: film(1) for name in "abcd"}
    assert dropped(judged(monkeypatch, tmp_path, clips, a=10, b=30, c=20, d=5)) == {"a", "c", "d"}


def test_which_one_is_kept_does_not_hang_on_the_order(monkeypatch: pytest.MonkeyPatch, tmp_path):
    clips = {name: film(seed) for name, seed in (("a", 1), ("b", 1), ("c", 2), ("d", 2))}
    there = judged(monkeypatch, tmp_path, clips)
    back = judged(monkeypatch, tmp_path, dict(reversed(clips.items())))
    assert dropped(there) == dropped(back)


def test_a_hash_has_64_bits_and_ignores_brightness():
    picture = noise(1, 120, 160, 30)
    assert hash_of(picture).shape == (64,)
    assert (hash_of(picture) != hash_of(brighter(picture))).sum() <= 2
    assert (hash_of(picture) != hash_of(noise(2, 120, 160, 30))).sum() > 12
