"""Which sights become pictures: sharp, large, light, whole, with a face where it is a person's."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("cv2", reason="opencv-python-headless is not installed")

from training.curation import footage
from training.curation.clip import Sight, Track
from training.curation.masks import cv2
from training.curation.references import References, ReferencesConfig
from training.curation.stage import Place

from .world import Sprite, background, clip_of

CONFIG = ReferencesConfig(side=60, sharp=1.0)


def planted(tmp_path, leans, times, label="thing", face=0.0, change=lambda picture: picture, scores=None):
    """A clip with a track whose masked sights lie as files, as the stage before leaves them."""
    clip, track = clip_of("a"), Track("t1", label, "caption", ())
    sights = []
    for lean, time in zip(leans, times, strict=True):
        sprite = Sprite((210, 40, 40), lean=lean)
        sight = Sight(
            time, sprite.box(160, 120), 0.8, f"clips/a/{time}.png", {"face": face, "stable": 1.0, **(scores or {})}
        )
        picture = change(sprite.draw(background(1), 160, 120))
        footage.write_picture(picture, tmp_path / footage.sight_picture(clip, track, sight))
        footage.write_picture(np.where(sprite.area(160, 120), 255, 0).astype(np.uint8), tmp_path / sight.mask)
        sights.append(sight)
    return replace(clip, tracks=(replace(track, sights=tuple(sights)),))


def run(tmp_path, clip, config=CONFIG):
    (made,) = References(config).one(clip, Place(tmp_path))
    return made


def test_pictures_of_one_track_are_apart_in_time_and_unlike_in_pose(tmp_path):
    made = run(tmp_path, planted(tmp_path, [-0.9, -0.9, 0.9, 0.9], [0.0, 2.0, 2.5, 4.0]))
    assert [picture.kind for picture in made.references] == ["masked", "other_time"]


def test_a_picture_is_white_around_its_mask_and_carries_it(tmp_path):
    (picture,) = run(tmp_path, planted(tmp_path, [0], [0.0])).references
    mask = footage.read_mask(tmp_path / picture.mask)
    pixels = footage.read_picture(tmp_path / picture.path)
    assert (pixels[mask == 0] == 255).all() and not mask[0].any() and picture.subject == "t1"


@pytest.mark.parametrize(
    ("reason", "config", "change"),
    [
        ("blur", replace(CONFIG, sharp=20.0), lambda picture: cv2().GaussianBlur(picture, (0, 0), 6)),
        ("dark", CONFIG, lambda picture: picture // 12),
        ("flat", CONFIG, lambda picture: np.full_like(picture, 120)),
        ("size", replace(CONFIG, side=400), lambda picture: picture),
        ("large box", replace(CONFIG, greatest=0.05), lambda picture: picture),
        ("small mask", replace(CONFIG, mask=0.5), lambda picture: picture),
    ],
)
def test_each_fault_is_refused_by_its_name(tmp_path, reason, config, change):
    config = config if reason not in ("flat", "dark") else replace(config, sharp=0.0)
    made = run(tmp_path, planted(tmp_path, [0], [0.0], change=change), config)
    assert made.dropped and made.dropped.reason == "no reference" and reason in made.dropped.detail
    assert made.tracks[0].dropped and made.tracks[0].dropped.reason == reason


def test_a_person_without_a_visible_face_is_no_reference(tmp_path):
    assert run(tmp_path, planted(tmp_path, [0], [0.0], "old man", face=0.0)).dropped
    assert run(tmp_path, planted(tmp_path, [0], [0.0], "old man", face=0.9)).references


@pytest.mark.parametrize("name", ["crowded", "part", "several", "lost", "filled"])
def test_what_was_measured_on_a_mask_refuses_it_by_name(tmp_path, name):
    limit = getattr(CONFIG, name)
    assert run(tmp_path, planted(tmp_path, [0], [0.0], scores={name: limit})).references
    made = run(tmp_path, planted(tmp_path, [0], [0.0], scores={name: limit + 0.01}))
    assert made.dropped and made.dropped.detail == name


def test_a_sight_with_a_notch_is_refused(tmp_path):
    clip = planted(tmp_path, [0], [0.0])
    (sight,) = clip.tracks[0].sights
    mask = footage.read_mask(tmp_path / sight.mask).copy()
    mask[130:, 158:162] = 0
    footage.write_picture(mask, tmp_path / sight.mask)
    made = run(tmp_path, clip)
    assert made.dropped and made.dropped.detail == "bitten"


def test_a_faint_outline_is_refused(tmp_path):
    made = run(tmp_path, planted(tmp_path, [0], [0.0], scores={"edge": CONFIG.edge - 0.1}))
    assert made.dropped and made.dropped.detail == "faint outline"
