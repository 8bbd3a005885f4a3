"""From frames to tracks with clean masks, on sprites whose truth is known."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("cv2", reason="opencv-python-headless is not installed")

from training.curation import footage
from training.curation.cutting import Cutter, Look
from training.curation.masks import MaskConfig, overlap_of
from training.curation.models.kinds import Face, Found, Pixels
from training.curation.naming import NamingConfig, label_of
from training.curation.stage import Place
from training.curation.subjects import Subjects, SubjectsConfig
from training.curation.tracking import Spot

from .world import ColourEmbedder, ColourSegmenter, Film, PlantedDetector, PlantedFaces, Sprite, background, clip_of

RED, BLUE = Sprite((210, 40, 40)), Sprite((40, 60, 220))


def planted(paths, places=None, label="thing", score=0.8):
    """A clip of sprites on paths, and a detector that knows their boxes."""
    pictures, frames = [], []
    for n in range(20):
        picture, found = background(3), []
        for sprite, path in paths:
            picture = sprite.draw(picture, *path(n))
            found.append(Found(label, sprite.box(*path(n)), score))
        pictures.append(picture)
        frames.append((picture, found))
    return pictures, PlantedDetector(frames)


def run(tmp_path, monkeypatch, pictures, detector, clip=None, config=None):
    monkeypatch.setattr(footage, "frames", Film({"a": pictures}).frames)
    stage = Subjects(config or SubjectsConfig(side=60), lambda: detector, ColourSegmenter, ColourEmbedder)
    (made,) = stage.one(clip or clip_of("a"), Place(tmp_path))
    return made


def test_two_of_one_class_are_two_subjects_with_their_own_masks(tmp_path, monkeypatch):
    paths = [(RED, lambda n: (70, 80 + n)), (BLUE, lambda n: (240, 160 - n))]
    made = run(tmp_path, monkeypatch, *planted(paths))
    assert len(made.tracks) == 2 and not made.dropped
    for track in made.tracks:
        for sight in track.sights:
            if sight.mask:
                mask = footage.read_mask(tmp_path / sight.mask)
                truth = [s.area(*path(round(sight.time * 4))) for s, path in paths]
                best = max(overlap_of(mask, t.astype("uint8") * 255) for t in truth)
                assert best > 0.95


def test_subjects_that_touch_are_left_out_of_each_others_masks_or_dropped(tmp_path, monkeypatch):
    paths = [(RED, lambda n: (120, 120)), (BLUE, lambda n: (196, 120))]
    made = run(tmp_path, monkeypatch, *planted(paths))
    for track in made.tracks:
        for sight in track.sights:
            if sight.mask:
                mask = footage.read_mask(tmp_path / sight.mask) >= 128
                shares = [float((mask & s.area(*path(0))).sum()) / mask.sum() for s, path in paths]
                assert max(shares) > 0.97


def test_a_doubtful_label_is_neutral_and_a_captions_word_is_kept(tmp_path, monkeypatch):
    paths = [(RED, lambda n: (100 + 4 * n, 120))]
    made = run(tmp_path, monkeypatch, *planted(paths, label="dog", score=0.5))
    assert [(t.label, t.label_source) for t in made.tracks] == [("subject", "detector")]
    named = replace(clip_of("a"), words=("red ball",), caption="A red ball.", caption_source="sidecar")
    made = run(tmp_path, monkeypatch, *planted(paths, label="red ball", score=0.5), clip=named)
    assert [(t.label, t.label_source) for t in made.tracks] == [("red ball", "caption")]


class Denies:
    """An image-text model that believes in nothing, or in all."""

    def __init__(self, fit: float) -> None:
        self.answer = fit

    def fit(self, picture: Pixels, words: Sequence[str]) -> list[float]:
        return [self.answer] + [0.0] * (len(words) - 1)


def test_a_caption_lends_its_name_to_no_other_label_and_not_against_the_image_text_model():
    spots = [Spot(0, (0, 0, 9, 9), 0.5, "dog", np.ones(1, np.float32))]
    empty = np.zeros((9, 9, 3), np.uint8)
    looks = [Look(spots[0], empty, empty, np.ones(1, np.float32), {"sharp": 1.0}, None)]
    other = replace(clip_of("a"), words=("rabbit",), caption="A rabbit.", caption_source="vlm")
    named = replace(other, words=("dog",), caption="A dog.")
    config = NamingConfig()
    assert label_of(other, spots, looks, config, None) == ("subject", "detector")
    assert label_of(named, spots, looks, config, None) == ("dog", "caption")
    assert label_of(named, spots, looks, config, Denies(0.9)) == ("dog", "caption")
    assert label_of(named, spots, looks, config, Denies(0.1)) == ("subject", "detector")


def test_a_clip_without_anything_is_dropped_with_its_reason(tmp_path, monkeypatch):
    pictures, _ = planted([])
    made = run(tmp_path, monkeypatch, pictures, PlantedDetector())
    assert made.dropped and made.dropped.reason == "no subject"


def test_what_stands_out_is_the_subject_where_the_detector_knows_nothing(tmp_path, monkeypatch):
    pictures, _ = planted([(RED, lambda n: (100 + 4 * n, 120))])
    made = run(tmp_path, monkeypatch, pictures, PlantedDetector([(p, ()) for p in pictures]))
    assert [track.label for track in made.tracks] == ["subject"]


def test_a_small_thing_is_refused_with_its_size(tmp_path, monkeypatch):
    made = run(tmp_path, monkeypatch, *planted([(Sprite((210, 40, 40), 20), lambda n: (100, 120))]))
    assert made.dropped and "size" in {drop.reason for drop in made.refused}


def test_features_hold_a_vector_for_every_masked_sight(tmp_path, monkeypatch):
    made = run(tmp_path, monkeypatch, *planted([(RED, lambda n: (100 + 4 * n, 120))]))
    features = footage.read_features(tmp_path / made.tracks[0].features)
    masked = [sight.time for sight in made.tracks[0].sights if sight.mask]
    assert features.times.tolist() == masked and len(features.looks) == len(masked)


def test_a_mask_with_two_faces_is_two_people_and_refused(tmp_path, monkeypatch):
    pictures, detector = planted([(RED, lambda n: (100 + 4 * n, 120))], label="person")
    face = Face((40.0, 40.0, 60.0, 60.0), 0.9, np.ones(4, np.float32))
    other = Face((62.0, 40.0, 80.0, 58.0), 0.9, np.ones(4, np.float32))
    for found, reason in (([face, other], "no subject"), ([face], None)):
        monkeypatch.setattr(footage, "frames", Film({"a": pictures}).frames)
        faces = PlantedFaces(found)
        config = SubjectsConfig(side=60)
        stage = Subjects(config, lambda: detector, ColourSegmenter, ColourEmbedder, lambda f=faces: f)
        (made,) = stage.one(clip_of("a"), Place(tmp_path))
        assert (made.dropped and made.dropped.reason) == reason
    assert [(track.label, track.face) for track in made.tracks] == [("person", True)]


class OneSided(ColourSegmenter):
    """Does not see what is at the left of a box: in the mirrored picture that is the other side."""

    def mask(self, picture, box):
        mask = super().mask(picture, box)
        mask[:, : int(box[0] + 0.08 * (box[2] - box[0]))] = 0
        return mask


@pytest.mark.parametrize(("segmenter", "least", "most"), [(ColourSegmenter, 0.0, 0.0), (OneSided, 0.005, 0.1)])
def test_the_second_look_is_at_the_mirrored_picture(segmenter, least, most):
    cutter = Cutter(segmenter(), ColourEmbedder(), None, MaskConfig(stable=0.8, cut=1.0))
    spot = Spot(0, RED.box(160, 120), 0.8, "thing", np.ones(3, np.float32))
    made = cutter.cut(RED.draw(background(3), 160, 120), spot, ())
    assert isinstance(made, Look)
    assert least <= made.scores["lost"] <= most and (made.scores["stable"] > 0.98) == (segmenter is ColourSegmenter)
