"""Which pictures a clip is trained with: the same subject, and never a copy."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("cv2", reason="opencv-python-headless is not installed")

from training.curation import footage, pairs_file
from training.curation.identity import IdentityConfig, Known, matches
from training.curation.models.kinds import Found
from training.curation.pairs import Pairs, PairsConfig
from training.curation.plates import Plates, PlatesConfig
from training.curation.references import References, ReferencesConfig
from training.curation.stage import Place
from training.curation.subjects import Subjects, SubjectsConfig

from .world import ColourEmbedder, ColourSegmenter, Fill, Film, PlantedDetector, Sprite, background, clip_of

RED, BLUE = (210, 40, 40), (40, 60, 220)


def moving(colour, seed, leans):
    """A sprite that crosses a place, leaning as told: frames and what a detector finds."""
    frames = []
    for n in range(20):
        sprite = Sprite(colour, lean=leans[n * len(leans) // 20])
        spot = (60 + 10 * n, 120)
        picture = sprite.draw(background(seed), *spot)
        frames.append((picture, [Found("thing", sprite.box(*spot), 0.8)]))
    return frames


def run(tmp_path, monkeypatch, films, embedder=ColourEmbedder, config=None):
    monkeypatch.setattr(footage, "frames", Film({n: [p for p, _ in f] for n, f in films.items()}).frames)
    detector, place = PlantedDetector([frame for film in films.values() for frame in film]), Place(tmp_path)
    subjects = Subjects(SubjectsConfig(side=60), lambda: detector, ColourSegmenter, ColourEmbedder)
    references, plates = (
        References(ReferencesConfig(side=60, sharp=1.0)),
        Plates(PlatesConfig(), lambda: detector, ColourSegmenter, Fill),
    )
    clips = [clip_of(name) for name in films]
    for stage in (subjects, references, plates):
        clips = [stage.one(clip, place)[0] for clip in clips]
    assert not [clip.dropped for clip in clips if clip.dropped]
    config = config or PairsConfig(identity=IdentityConfig(high=1.01))
    return Pairs(config, embedder).all(clips, place)


def kinds(clip):
    return {picture.kind for picture in clip.references}


def test_a_subject_that_never_changes_is_only_shown_changed_or_elsewhere(tmp_path, monkeypatch):
    one, _ = run(tmp_path, monkeypatch, {"a": moving(RED, 1, [0]), "b": moving(BLUE, 2, [0])})
    assert kinds(one) == {"changed", "new_background", "plate"}


def test_another_pose_at_another_time_is_shown_as_it_is(tmp_path, monkeypatch):
    one, _ = run(tmp_path, monkeypatch, {"a": moving(RED, 1, [-0.9, -0.3, 0.3, 0.9]), "b": moving(BLUE, 2, [0])})
    assert kinds(one) >= {"masked", "other_time"}


def test_one_subject_in_two_clips_is_paired_when_its_pose_differs_and_others_never(tmp_path, monkeypatch):
    films = {"a": moving(RED, 1, [-0.9]), "b": moving(RED, 2, [0.9]), "c": moving(BLUE, 3, [0])}
    one, two, three = run(tmp_path, monkeypatch, films)
    assert "cross_clip" in kinds(one) and "cross_clip" in kinds(two) and "cross_clip" not in kinds(three)
    assert all("/b/" in p.path for p in one.references if p.kind == "cross_clip")
    pairing = next(p for p in pairs_file.read(tmp_path / pairs_file.path(one)) if p.kind == "cross_clip")
    assert pairing.other == "b" and pairing.likeness > 0.9


def test_the_same_pose_in_another_clip_is_a_copy_and_refused(tmp_path, monkeypatch):
    one, _ = run(tmp_path, monkeypatch, {"a": moving(RED, 1, [0.5]), "b": moving(RED, 2, [0.5])})
    assert "cross_clip" not in kinds(one)
    assert "cross_clip: same pose" in {drop.reason for drop in one.refused}


def test_before_the_same_background_another_clips_pose_must_differ_more(tmp_path, monkeypatch):
    films = {"a": moving(RED, 1, [-0.45]), "b": moving(RED, 1, [0.45])}
    config = PairsConfig(identity=IdentityConfig(high=1.01), cross_pose=0.01)
    (one, _) = run(tmp_path, monkeypatch, films, config=replace(config, same_place_pose=0.9))
    assert "cross_clip" not in kinds(one)
    (one, _) = run(tmp_path, monkeypatch, films, config=replace(config, same_place_pose=0.9, same_place=1.01))
    assert "cross_clip" in kinds(one)


def test_no_made_picture_shows_a_pose_of_its_clip(tmp_path, monkeypatch):
    films = {"a": moving(RED, 1, [0]), "b": moving(BLUE, 2, [0])}
    strict = PairsConfig(identity=IdentityConfig(high=1.01), made=0.9, background=False)
    one, _ = run(tmp_path, monkeypatch, films, config=strict)
    assert not one.references and {d.reason for d in one.refused} >= {"changed: own pose", "new_background: own pose"}
    one, _ = run(tmp_path, monkeypatch, films, config=replace(strict, made=0.1))
    assert all(p.pose >= 0.1 for p in pairs_file.read(tmp_path / pairs_file.path(one)))


def test_a_made_picture_of_someone_else_does_not_pass_the_gate(tmp_path, monkeypatch):
    class Forgetful(ColourEmbedder):
        """Sees another thing each time."""

        def embed(self, picture, mask=None):
            return np.random.default_rng(picture.size).choice(np.eye(3, dtype=np.float32))

    one, _ = run(tmp_path, monkeypatch, {"a": moving(RED, 1, [0]), "b": moving(BLUE, 2, [0])}, Forgetful)
    lost = [drop for drop in one.refused if drop.reason == "identity lost"]
    made = [p for p in one.references if p.kind in ("changed", "new_background")]
    assert len(lost) + len(made) == 2 and all(drop.value < drop.threshold for drop in lost)


def test_a_scene_is_another_clips_clean_place_with_the_subject_before_it(tmp_path, monkeypatch):
    one, _ = run(tmp_path, monkeypatch, {"a": moving(RED, 1, [0]), "b": moving(BLUE, 2, [0])})
    (scene,) = [p for p in one.references if p.kind == "new_background"]
    assert scene.mask is None and scene.weight == 4.0
    picture = footage.read_picture(tmp_path / scene.path)
    coloured = picture.astype(int).max(axis=2) - picture.astype(int).min(axis=2) > 40
    assert 0.05 < coloured.mean() < 0.8
    assert (picture[coloured].mean(axis=0).argmax()) == 0


def test_files_of_all_pictures_lie_in_the_output_folder(tmp_path, monkeypatch):
    for clip in run(tmp_path, monkeypatch, {"a": moving(RED, 1, [0]), "b": moving(BLUE, 2, [0.9])}):
        for picture in clip.references:
            assert (tmp_path / picture.path).is_file()
            assert picture.mask is None or (tmp_path / picture.mask).is_file()


def known(clip, track, look, colour=(1.0, 0.0), source="film"):
    looks = np.array([np.divide(look, np.linalg.norm(look))], np.float32)
    return Known(clip, track, source, False, looks, np.array([colour], np.float32), np.zeros((0, 4), np.float32))


def test_matches_are_mutual_inside_the_window_and_of_one_source():
    config = IdentityConfig()
    one, like, copy = known(0, "t1", (1, 0, 0)), known(1, "t1", (1, 0.4, 0)), known(2, "t1", (1, 0, 0))
    assert len(matches([one, like], config)) == 1
    assert not matches([one, copy], config)
    assert not matches([one, replace(like, source="other")], config)


def test_two_seen_at_once_who_look_alike_are_matched_with_nobody():
    twins = [known(1, "t1", (1, 0.4, 0)), known(1, "t2", (1, 0.41, 0))]
    assert not matches([known(0, "t1", (1, 0, 0)), *twins], IdentityConfig())


def test_other_colours_are_no_match():
    assert not matches([known(0, "t1", (1, 0, 0)), known(1, "t1", (1, 0.4, 0), (0.0, 1.0))], IdentityConfig())
