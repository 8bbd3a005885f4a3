"""Each filter drops what it is for, tells value and threshold, and leaves a healthy clip alone."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("cv2", reason="opencv-python-headless is not installed")

from training.curation import video
from training.curation.clip import Clip
from training.curation.masks import cv2
from training.curation.models.kinds import Found, Pixels
from training.curation.quality import Quality, QualityConfig, find_bars, text_share
from training.curation.stage import Place

from .films import clip_in, noise, write

SMALL = QualityConfig(side=60, seconds=1.0)
HEIGHT, WIDTH = 120, 160
FRAMES = 16


def scene(number: int) -> Pixels:
    """A panning camera, and a thing that goes its own way."""
    picture = noise(5, HEIGHT, WIDTH * 2)[:, number : number + WIDTH].copy()
    picture[40:90, 20 + 4 * number : 60 + 4 * number] = noise(9, 50, 40, 5)
    return picture


class Finder:
    """Tells the same boxes of every picture."""

    def __init__(self, *boxes: tuple[float, float, float, float]) -> None:
        self.boxes = boxes

    def text(self, picture: Pixels) -> list[Found]:
        return [Found("text", box, 0.9) for box in self.boxes]


def judge(
    tmp_path: Path, pictures: Sequence[Pixels], config: QualityConfig = SMALL, text: Finder | None = None
) -> Clip:
    folder = tmp_path / "clips" / "a"
    folder.mkdir(parents=True)
    write(folder / "clip.mp4", pictures)
    write(tmp_path / "source.mp4", pictures)
    height, width = pictures[0].shape[:2]
    clip = clip_in(tmp_path, folder / "clip.mp4", len(pictures) / 8)
    clip = Clip(**{**vars(clip), "width": width, "height": height})
    clip = Clip(**{**vars(clip), "source": type(clip.source)(str(tmp_path / "source.mp4"))})
    (made,) = Quality(config, (lambda: text) if text else None).one(clip, Place(tmp_path))
    return made


def healthy() -> list[Pixels]:
    return [scene(number) for number in range(FRAMES)]


def blurred(picture: Pixels) -> Pixels:
    return cv2().GaussianBlur(picture, (0, 0), 6).astype(np.uint8)


def shaken(number: int) -> Pixels:
    jump = (number * 37) % 80
    return noise(5, HEIGHT + 100, WIDTH + 100, 20)[jump : jump + HEIGHT, 80 - jump : 80 - jump + WIDTH]


def test_a_healthy_clip_is_kept_with_all_its_scores(tmp_path: Path):
    made = judge(tmp_path, healthy(), text=Finder())
    assert made.dropped is None, made.dropped
    assert {"side", "luma", "sharp", "motion", "camera", "own", "still", "text"} <= set(made.metrics)


SPOILT: dict[str, Callable[[], list[Pixels]]] = {
    "dark": lambda: [(picture // 12) for picture in healthy()],
    "bright": lambda: [(255 - picture // 12) for picture in healthy()],
    "blurry": lambda: [blurred(picture) for picture in healthy()],
    "still": lambda: [scene(0)] * FRAMES,
    "wild": lambda: [shaken(number) for number in range(FRAMES)],
    "camera only": lambda: [noise(5, HEIGHT, WIDTH * 2)[:, 2 * n : 2 * n + WIDTH] for n in range(FRAMES)],
}


@pytest.mark.parametrize("reason", SPOILT)
def test_what_is_spoilt_is_dropped_for_that_reason(tmp_path: Path, reason: str):
    made = judge(tmp_path, SPOILT[reason]())
    assert made.dropped, made.metrics
    assert (made.dropped.stage, made.dropped.reason) == ("quality", reason), made.metrics
    assert made.dropped.value != made.dropped.threshold


def test_a_freeze_in_the_middle_is_found(tmp_path: Path):
    pictures = [scene(number) for number in range(6)] + [scene(6)] * 12
    made = judge(tmp_path, pictures)
    assert made.dropped and made.dropped.reason == "still"
    assert made.dropped.value == pytest.approx(11 / 17, abs=0.08)


def test_small_and_short_clips_are_dropped(tmp_path: Path):
    small = judge(tmp_path / "a", healthy(), QualityConfig(side=480, seconds=1.0))
    short = judge(tmp_path / "b", healthy(), QualityConfig(side=60, seconds=3.0))
    assert small.dropped and (small.dropped.reason, small.dropped.value) == ("small", 120)
    assert short.dropped and (short.dropped.reason, short.dropped.value) == ("short", 2.0)


def test_much_text_drops_a_clip_and_little_does_not(tmp_path: Path):
    much = judge(tmp_path / "a", healthy(), text=Finder((0, 90, 160, 120)))
    little = judge(tmp_path / "b", healthy(), text=Finder((0, 0, 16, 10)))
    assert much.dropped and (much.dropped.reason, much.dropped.value) == ("text", pytest.approx(0.25))
    assert little.dropped is None and little.metrics["text"] == pytest.approx(160 / 19200)


def test_boxes_of_text_that_overlap_count_once_and_only_inside_of_the_picture():
    picture = np.zeros((100, 100, 3), np.uint8)
    assert text_share(picture, Finder((0, 0, 50, 50), (25, 0, 50, 50), (90, 90, 200, 200))) == pytest.approx(0.26)


def boxed() -> list[Pixels]:
    pictures = []
    for number in range(FRAMES):
        picture = scene(number)
        picture[:20] = picture[-20:] = 0
        pictures.append(picture)
    return pictures


def test_constant_bars_are_cut_off_and_the_rest_is_judged(tmp_path: Path):
    made = judge(tmp_path, boxed())
    assert made.dropped is None, made.dropped
    assert made.width == WIDTH and 70 <= made.height <= 80
    (first, *_) = video.sample(tmp_path / made.video, 8.0)[1]
    assert first.shape == (made.height, made.width, 3)
    assert first.max(axis=(1, 2)).min() > 24, "no row of a bar is left"


def test_a_clip_of_which_little_is_left_without_bars_is_dropped(tmp_path: Path):
    pictures = boxed()
    for picture in pictures:
        picture[:, :40] = picture[:, -40:] = 0
    made = judge(tmp_path, pictures)
    assert made.dropped and (made.dropped.reason, made.dropped.threshold) == ("bars", 0.4)
    assert made.dropped.value == made.metrics["bars"]


def test_cutting_bars_off_again_gives_the_same_clip(tmp_path: Path):
    """A run may be killed between the new file and the note that it is done."""
    first = judge(tmp_path, boxed())
    before = Clip(**{**vars(first), "metrics": {}, "width": WIDTH, "height": HEIGHT, "video": "clips/a/clip.mp4"})
    (second,) = Quality(SMALL).one(before, Place(tmp_path))
    assert second == first


def test_a_dark_scene_is_no_bar_and_a_bar_of_one_moment_neither():
    dark = [np.full((100, 100, 3), 5, np.uint8)] * 3
    passing = [noise(number, 100, 100) for number in range(3)]
    passing[1][:30] = 0
    assert find_bars(dark) == find_bars(passing) == (0.0, 0.0, 0.0, 0.0)


def marked() -> list[Pixels]:
    pictures = healthy()
    for picture in pictures:
        picture[4:20, 110:154] = np.where(noise(3, 16, 44, 4) > 128, 255, 0)
    return pictures


def test_a_mark_that_stays_while_the_camera_moves_drops_the_clip(tmp_path: Path):
    made = judge(tmp_path, marked())
    assert made.dropped and made.dropped.reason == "mark", made.metrics
