"""Which pictures a clip is trained with: the same subject, and never a copy."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("cv2", reason="opencv-python-headless is not installed")

from training.curation import footage, pairs_file
from training.curation.identity import IdentityConfig, Known, matches
from training.curation.models.kinds import Face, Found
from training.curation.pairs import Pairs
from training.curation.pairs_config import PairsConfig, Weights
from training.curation.plates import Plates, PlatesConfig
from training.curation.references import References, ReferencesConfig
from training.curation.stage import Place
from training.curation.subjects import Subjects, SubjectsConfig
from training.curation.variants import SceneConfig

from .world import (
    ColourEmbedder,
    ColourSegmenter,
    Fill,
    Film,
    PlantedDetector,
    PlantedFaces,
    Sprite,
    background,
    clip_of,
)

RED, BLUE = (210, 40, 40), (40, 60, 220)
# All places here are grey: by their colours they are one.
SCENE = SceneConfig(same_place=1.01, smallest=0)
CONFIG = PairsConfig(identity=IdentityConfig(high=1.01), scene=SCENE)


def moving(colour, seed, leans):
    """A sprite that crosses a place, leaning as told: frames and what a detector finds."""
    frames = []
    for n in range(20):
        sprite = Sprite(colour, lean=leans[n * len(leans) // 20])
        spot = (60 + 10 * n, 120)
        picture = sprite.draw(background(seed), *spot)
        frames.append((picture, [Found("thing", sprite.box(*spot), 0.8)]))
    return frames


def run(tmp_path, monkeypatch, films, embedder=ColourEmbedder, config=CONFIG, apart=60.0, seen=None, made=None):
    """Clips of one film, each ``apart`` seconds after the last; faces as ``seen`` in them and ``made`` pictures."""
    monkeypatch.setattr(footage, "frames", Film({n: [p for p, _ in f] for n, f in films.items()}).frames)
    detector, place = PlantedDetector([frame for film in films.values() for frame in film]), Place(tmp_path)
    subjects = Subjects(SubjectsConfig(side=60), lambda: detector, ColourSegmenter, ColourEmbedder, seen)
    references, plates = (
        References(ReferencesConfig(side=60, sharp=1.0)),
        Plates(PlatesConfig(), lambda: detector, ColourSegmenter, Fill),
    )
    clips = [replace(clip_of(name), start=n * apart, end=n * apart + 5.0) for n, name in enumerate(films)]
    for stage in (subjects, references, plates):
        clips = [stage.one(clip, place)[0] for clip in clips]
    assert not [clip.dropped for clip in clips if clip.dropped]
    return Pairs(config, embedder, made).all(clips, place)


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
    config = replace(CONFIG, cross_pose=0.01)
    (one, _) = run(tmp_path, monkeypatch, films, config=replace(config, same_place_pose=0.9))
    assert "cross_clip" not in kinds(one)
    (one, _) = run(tmp_path, monkeypatch, films, config=replace(config, same_place_pose=0.9, same_place=1.01))
    assert "cross_clip" in kinds(one)


def test_its_own_pose_is_only_changed_where_no_other_clip_or_time_shows_another(tmp_path, monkeypatch):
    films = {"a": moving(RED, 1, [-0.9]), "b": moving(RED, 2, [0.9]), "c": moving(BLUE, 3, [-0.9, 0.9])}
    one, two, three = run(tmp_path, monkeypatch, films)
    assert kinds(one) == kinds(two) == {"cross_clip", "new_background", "plate"}
    assert kinds(three) >= {"masked", "new_background"} and "changed" not in kinds(three)
    assert "masked: own pose" in {drop.reason for drop in one.refused}, "judged before a warp hides it"


def test_a_scene_is_made_of_the_other_clips_picture_where_there_is_one(tmp_path, monkeypatch):
    films = {"a": moving(RED, 1, [-0.9]), "b": moving(RED, 2, [0.9]), "c": moving(BLUE, 3, [0])}
    one = run(tmp_path, monkeypatch, films)[0]
    (scene,) = [p for p in pairs_file.read(tmp_path / pairs_file.path(one)) if p.kind == "new_background"]
    assert (scene.other, scene.backdrop) == ("b", "c") and scene.pose >= CONFIG.cross_pose
    assert scene.path.startswith("references/a/")


def test_a_picture_made_of_the_clips_own_pose_says_so(tmp_path, monkeypatch):
    one, _ = run(tmp_path, monkeypatch, {"a": moving(RED, 1, [0]), "b": moving(BLUE, 2, [0])})
    assert {p.pose for p in pairs_file.read(tmp_path / pairs_file.path(one))} == {0.0}


def test_a_picture_of_another_clip_is_the_heaviest():
    weights = vars(Weights())
    assert all(weights["cross_clip"] > weight for kind, weight in weights.items() if kind != "cross_clip")


def test_a_piece_of_the_same_shot_is_no_backdrop(tmp_path, monkeypatch):
    films = {"a": moving(RED, 1, [0]), "b": moving(BLUE, 2, [0])}
    one, _ = run(tmp_path, monkeypatch, films, apart=5.0)
    assert "new_background" not in kinds(one)


def test_a_place_like_the_clips_own_or_too_small_is_no_backdrop(tmp_path, monkeypatch):
    films = {"a": moving(RED, 1, [0]), "b": moving(BLUE, 2, [0])}
    for scene, reason in (
        (replace(SCENE, same_place=0.6), "same place"),
        (replace(SCENE, smallest=721), "small place"),
    ):
        one, _ = run(tmp_path, monkeypatch, films, config=replace(CONFIG, scene=scene))
        assert "new_background" not in kinds(one)
        assert f"new_background: {reason}" in {drop.reason for drop in one.refused}


def test_what_the_frame_cuts_at_its_side_is_put_into_no_scene(tmp_path, monkeypatch):
    films = {"a": moving(RED, 1, [0]), "b": moving(BLUE, 2, [0])}
    one, _ = run(tmp_path, monkeypatch, films, config=replace(CONFIG, border=-1.0))
    assert kinds(one) == {"changed", "plate"}
    assert "new_background: cut by the frame" in {drop.reason for drop in one.refused}


class Forgetful(ColourEmbedder):
    """Sees another thing each time."""

    def __init__(self):
        self.calls = 0

    def embed(self, picture, mask=None):
        self.calls += 1
        return np.eye(2, dtype=np.float32)[self.calls % 2]


def test_a_made_picture_of_someone_else_does_not_pass_the_gate(tmp_path, monkeypatch):
    films = {"a": moving(RED, 1, [0]), "b": moving(BLUE, 2, [0])}
    one, _ = run(tmp_path, monkeypatch, films, Forgetful)
    lost = [drop for drop in one.refused if drop.reason == "identity lost"]
    assert [(drop.value, drop.threshold) for drop in lost] == [(0.0, 0.8), (0.0, 0.8)]
    assert not one.references and one.dropped and one.dropped.reason == "no pair"
    assert not list((tmp_path / "references").glob("*/*-changed*")) and not list(tmp_path.rglob("*-scene.png"))


@pytest.mark.parametrize("identity", [(1.0, 0.0), (0.0, 1.0), None])
def test_a_made_picture_without_its_subjects_face_does_not_pass_either(tmp_path, monkeypatch, identity):
    def faces(identity):
        face = [Face((40, 40, 60, 60), 0.9, np.array(identity, np.float32))] if identity else []
        return lambda: PlantedFaces(face)

    films = {"a": moving(RED, 1, [0]), "b": moving(BLUE, 2, [0])}
    one, _ = run(tmp_path, monkeypatch, films, seen=faces((1.0, 0.0)), made=faces(identity))
    lost = [drop.value for drop in one.refused if drop.reason == "face lost"]
    if identity == (1.0, 0.0):
        assert kinds(one) == {"changed", "new_background", "plate"} and not lost
    else:
        assert lost == [0.0, 0.0] and not one.references


def test_a_scene_is_another_clips_clean_place_with_the_subject_before_it(tmp_path, monkeypatch):
    one, _ = run(tmp_path, monkeypatch, {"a": moving(RED, 1, [0]), "b": moving(BLUE, 2, [0])})
    (scene,) = [p for p in one.references if p.kind == "new_background"]
    assert scene.mask is None and scene.weight == 2.0
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
