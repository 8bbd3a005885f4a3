"""Production models: the real loading and calling code, on tiny random checkpoints of the same classes."""

from pathlib import Path

import numpy as np
import pytest

from kaleido_core.errors import ConfigError
from training.curation.models import make
from training.curation.models.grounding_dino import asked
from training.curation.models.vision_language import read_answer

tiny = pytest.importorskip("tests.training.curation.models.tiny_checkpoints", reason="needs transformers")

PICTURE = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)


def test_grounding_dino_tells_boxes_of_the_words_that_were_asked_for(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("training.curation.models.grounding_dino.BOX", 0.0)
    monkeypatch.setattr("training.curation.models.grounding_dino.TEXT", 0.0)
    detector = make.detector(f"grounding-dino:{tiny.grounding_dino(tmp_path / 'm')}", tmp_path)
    found = detector.find(PICTURE, ["Dog", "ball"])
    assert len(found) == 5 and {one.label for one in found} <= {"Dog", "ball"}
    assert all(0 <= one.score <= 1 and len(one.box) == 4 for one in found)


def test_a_box_belongs_to_the_word_that_shares_most_with_its_label():
    words = ["a white dog", "a black dog", "Santa Claus"]
    assert asked("black dog. [SEP]", words) == "a black dog"
    assert asked("santa", words) == "Santa Claus"  # as it was asked for: labels are parts of a caption
    assert asked(".", words) == asked("", words) == asked("cat", words) == ""


def test_sam2_gives_a_mask_of_the_pictures_size(tmp_path: Path):
    mask = make.segmenter(f"sam2:{tiny.sam2(tmp_path / 'm')}", tmp_path).mask(PICTURE, (10.0, 10.0, 50.0, 40.0))
    assert mask.shape == PICTURE.shape[:2] and mask.dtype == np.uint8


def test_clip_shares_a_picture_among_words(tmp_path: Path):
    fit = make.image_text(f"clip:{tiny.clip(tmp_path / 'm')}", tmp_path).fit(PICTURE, ["dog", "cat", "ball"])
    assert len(fit) == 3 and sum(fit) == pytest.approx(1)


@pytest.mark.parametrize("name", ["clip", "dino"])
def test_what_surrounds_a_subject_is_no_part_of_its_vector(name: str, tmp_path: Path):
    embedder = make.embedder(f"{name}:{getattr(tiny, name)(tmp_path / 'm')}", tmp_path)
    mask = np.zeros(PICTURE.shape[:2], np.uint8)
    mask[10:50, 20:60] = 255
    elsewhere = np.where(mask[..., None] > 0, PICTURE, 255 - PICTURE)
    assert embedder.embed(PICTURE, mask) @ embedder.embed(elsewhere, mask) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("name", ["clip", "dino"])
def test_a_picture_is_nearest_to_itself(name: str, tmp_path: Path):
    embedder = make.embedder(f"{name}:{getattr(tiny, name)(tmp_path / 'm')}", tmp_path)
    mask = np.full(PICTURE.shape[:2], 255, np.uint8)
    one, same, other = (embedder.embed(picture, mask) for picture in (PICTURE, PICTURE, 255 - PICTURE))
    assert np.linalg.norm(one) == pytest.approx(1, abs=1e-4)
    assert one @ same == pytest.approx(1, abs=1e-4) and one @ other < one @ same


def test_a_vision_language_model_is_asked_about_all_frames_in_a_chat(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("training.curation.models.vision_language.LONGEST", 4)
    spec = f"transformers:{tiny.vision_language(tmp_path / 'm')}"
    captioner = make.captioner(spec, tmp_path, lambda: pytest.fail("only the template asks a detector"))
    assert captioner.caption([PICTURE, PICTURE]) == ("", ())  # random weights answer no JSON


@pytest.mark.parametrize("kind", ["diffusion", "fill"])
def test_diffusion_paints_only_under_the_mask(kind: str, tmp_path: Path, monkeypatch):
    monkeypatch.setattr("training.curation.models.diffusion.STEPS", 2)
    mask = np.zeros(PICTURE.shape[:2], np.uint8)
    mask[20:40, 30:60] = 255
    filled = make.inpainter(f"diffusers:{getattr(tiny, kind)(tmp_path / 'm')}", tmp_path).fill(PICTURE, mask, "a dog")
    assert np.array_equal(filled[mask == 0], PICTURE[mask == 0])
    assert not np.array_equal(filled[mask > 0], PICTURE[mask > 0])


@pytest.mark.parametrize(
    ("kind", "spec"),
    [("detector", "grounding-dino"), ("segmenter", "sam2"), ("embedder", "dino"), ("image_text", "clip")],
)
def test_a_folder_without_a_model_is_named(kind: str, spec: str, tmp_path: Path):
    with pytest.raises(ConfigError, match="nowhere"):
        getattr(make, kind)(f"{spec}:{tmp_path / 'nowhere'}", tmp_path)


def test_an_answers_words_are_parts_of_its_caption():
    answer = 'Here: ```json {"caption": "A dog runs to a red ball.", "subjects": ["dog", "red ball", "cat", 3]} ```'
    assert read_answer(answer) == ("A dog runs to a red ball.", ("dog", "red ball"))
    assert read_answer("A dog.") == read_answer('{"caption": 3}') == read_answer("{broken}") == ("", ())
