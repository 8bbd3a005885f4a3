"""Clips: none crosses a cut, none is shorter or longer than asked, and each is a file of its own."""

from pathlib import Path

import pytest

pytest.importorskip("cv2", reason="opencv-python-headless is not installed")
pytest.importorskip("scenedetect", reason="scenedetect-headless is not installed")

from training.curation import video
from training.curation.clip import Clip
from training.curation.shots import Shots, ShotsConfig, find_cuts, split
from training.curation.stage import Place
from training.data.record import Source

from .films import shots, write

SHORT = ShotsConfig(least=1.0, most=2.1)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shots of 2 seconds, 24 frames a second."""
    return write(tmp_path_factory.mktemp("shots") / "three.mp4", shots(3, 48), fps=24)


def clip_of(path: Path, seconds: float, fps: float = 24) -> Clip:
    return Clip("a", Source(str(path)), 0.0, seconds, 96, 64, fps, round(seconds * fps))


def test_hard_cuts_are_found_where_they_are(three: Path):
    assert find_cuts(clip_of(three, 6.0), ShotsConfig()) == pytest.approx([2.0, 4.0], abs=1.1 / 24)


def test_a_shot_without_cuts_has_none(tmp_path: Path):
    still = write(tmp_path / "still.mp4", shots(1, 48), fps=24)
    assert find_cuts(clip_of(still, 2.0), ShotsConfig()) == []


def test_a_shot_becomes_a_file_of_its_own_with_nothing_of_its_neighbours(three: Path, tmp_path: Path):
    made = Shots(SHORT).one(clip_of(three, 6.0), Place(tmp_path))
    assert [clip.id for clip in made] == ["a-0000", "a-0001", "a-0002"]
    for number, clip in enumerate(made):
        assert clip.video and not clip.dropped
        assert 2.0 * number - 0.06 <= clip.start < clip.end <= 2.0 * (number + 1) + 0.06
        one, other = video.read_pictures(tmp_path / clip.video, [0.0, 9.9])
        assert abs(one.astype(int) - other).mean() < 2


def test_a_file_has_the_frames_that_its_clip_tells(three: Path, tmp_path: Path):
    for clip in Shots(SHORT).one(clip_of(three, 6.0), Place(tmp_path)):
        assert abs(video.probe(tmp_path / clip.video).frames - clip.frames) <= 1


def test_a_video_of_short_shots_only_is_dropped_with_the_longest(three: Path, tmp_path: Path):
    (made,) = Shots(ShotsConfig(least=4.0)).one(clip_of(three, 6.0), Place(tmp_path))
    assert made.dropped and made.dropped.reason == "short"
    assert (made.dropped.value, made.dropped.threshold) == (pytest.approx(2.0, abs=0.06), 4.0)


def test_a_long_shot_is_parted_into_equal_clips_that_lose_no_time():
    pieces = split([0.0, 12.0], 12.0, ShotsConfig(least=2.0, most=5.0))
    assert pieces == [(0.0, 4.0), (4.0, 8.0), (8.0, 12.0)]


def test_a_margin_is_left_beside_cuts_and_not_at_the_ends_of_the_video():
    assert split([0.0, 4.0, 8.0], 8.0, ShotsConfig(margin=0.5)) == [(0.0, 3.5), (4.5, 8.0)]


@pytest.mark.parametrize("length", [0.5, 1.9, 2.0, 5.1, 5.2, 9.9, 31.7])
def test_no_clip_is_longer_or_shorter_than_the_limits(length: float):
    config = ShotsConfig()
    for start, end in split([0.0, length], length, config):
        assert config.least <= end - start <= config.most
