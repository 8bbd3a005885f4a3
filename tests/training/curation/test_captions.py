"""Captions: told ones are kept, words are always parts of the sentence, and the last one names what is there."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

pytest.importorskip("cv2", reason="opencv-python-headless is not installed")

from training.curation import footage
from training.curation.captions import Captions, CaptionsConfig
from training.curation.captions_final import CaptionsFinal, CaptionsFinalConfig
from training.curation.clip import Clip
from training.curation.models.kinds import Pixels
from training.curation.stage import Place
from training.data.record import Picture

from .world import Film, background, clip_of


class Says:
    """A captioner of one sentence, that counts the frames it saw."""

    def __init__(self, sentence: str, *words: str) -> None:
        self.answer = sentence, words
        self.saw = 0

    def caption(self, frames: Sequence[Pixels]) -> tuple[str, tuple[str, ...]]:
        self.saw = len(frames)
        return self.answer


def captioned(monkeypatch: pytest.MonkeyPatch, tmp_path, says: Says, clip: Clip | None = None) -> Clip:
    monkeypatch.setattr(footage, "frames", Film({"a": [background(1)] * 20}).frames)
    (made,) = Captions(CaptionsConfig(frames=5, words=2), lambda: says, "vlm").one(
        clip or clip_of("a"), Place(tmp_path)
    )
    return made


def test_a_told_caption_is_kept_and_no_model_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path):
    told = replace(clip_of("a"), caption="A cat.", caption_source="sidecar", words=("cat",))
    says = Says("A dog.", "dog")
    assert captioned(monkeypatch, tmp_path, says, told) == told
    assert says.saw == 0


def test_a_captioner_sees_frames_of_the_whole_clip_and_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path):
    says = Says("A dog\n runs. ", "dog")
    made = captioned(monkeypatch, tmp_path, says)
    assert (made.caption, made.words, made.caption_source) == ("A dog runs.", ("dog",), "vlm")
    assert says.saw == 5


def test_words_that_are_no_part_of_the_sentence_or_come_twice_are_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path):
    says = Says("A dog and a cat and a bird.", "puppy", "dog", "", "dog", "cat", "bird")
    made = captioned(monkeypatch, tmp_path, says)
    assert made.words == ("dog", "cat")


def test_a_clip_without_a_sentence_is_dropped(monkeypatch: pytest.MonkeyPatch, tmp_path):
    made = captioned(monkeypatch, tmp_path, Says(" \n"))
    assert made.dropped and made.dropped.reason == "no caption"


def final(caption: str, source: str, *subjects: tuple[str, str]) -> Clip:
    """Labels by subject, two pictures each."""
    pictures = tuple(
        Picture(f"{name}-{n}.png", name, label, role="background" if label == "place" else "subject")
        for n in range(2)
        for name, label in subjects
    )
    clip = replace(clip_of("a"), caption=caption, caption_source=source, references=pictures)
    (made,) = CaptionsFinal(CaptionsFinalConfig()).one(clip, Place.__new__(Place))
    return made


def order(clip: Clip) -> list[str]:
    return list(dict.fromkeys(picture.subject for picture in clip.references))


def test_references_come_in_the_order_in_which_the_caption_names_them():
    made = final("A dog chases a cat.", "sidecar", ("t1", "cat"), ("t2", "dog"), ("bg", "place"))
    assert order(made) == ["t2", "t1", "bg"]
    assert made.caption == "A dog chases a cat."


def test_what_the_caption_does_not_name_comes_last_and_nothing_is_lost():
    made = final("A dog.", "sidecar", ("t1", "hat"), ("t2", "dog"))
    assert order(made) == ["t2", "t1"] and len(made.references) == 4


def test_a_guessed_caption_names_what_was_kept_in_the_order_of_the_references():
    assert final("A car.", "template", ("t1", "dog"), ("t2", "owl")).caption == "A dog and an owl."


def test_what_nobody_named_is_called_neutrally():
    assert final("", "template", ("t1", "subject")).caption == "The subject."
    assert final("", "", ("t1", "subject"), ("t2", "dog")).caption == "The first subject and a dog."


def test_a_clip_without_a_subjects_reference_is_dropped():
    made = final("A place.", "sidecar", ("bg", "place"))
    assert made.dropped and made.dropped.reason == "no reference"
