import contextlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from kaleido_core import video
from kaleido_core.errors import ConfigError, DataError, ShapeError
from kaleido_core.video import FORMATS, encode_video, read_metadata, read_video, write_video


def moving_square(frames: int = 5, height: int = 32, width: int = 48) -> np.ndarray:
    clip = np.full((frames, height, width, 3), (30, 90, 160), np.uint8)
    for index in range(frames):
        clip[index, 8:24, 4 + 4 * index : 20 + 4 * index] = (220, 60, 40)
    return clip


def test_a_clip_comes_back_as_it_was_written_but_for_the_codec(tmp_path: Path):
    clip = moving_square()
    write_video(clip, tmp_path / "clip.mp4", fps=8)
    back = read_video(tmp_path / "clip.mp4")
    assert back.shape == clip.shape and back.dtype == np.uint8
    assert np.abs(back.astype(int) - clip).mean() < 4


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (20, 60, 200), (128, 128, 128)])
def test_colours_keep_their_place(colour: tuple[int, int, int], tmp_path: Path):
    write_video(np.full((3, 32, 32, 3), colour, np.uint8), tmp_path / "clip.mp4")
    assert np.abs(read_video(tmp_path / "clip.mp4").mean((0, 1, 2)) - colour).max() < 4


def test_a_still_is_a_clip_of_one_frame(tmp_path: Path):
    write_video(moving_square(1), tmp_path / "still.mp4")
    assert len(read_video(tmp_path / "still.mp4")) == 1


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"prompt": 'a=b; c#d \\e "q"\n;[STREAM]\ncomment=no', "n": [1, 2.5, None, True]},
        {"色调艳丽，": "过曝 \U0001f98a \ud800"},
        {"big": "x=;\\é" * 60_000},
    ],
    ids=["empty", "marks", "scripts", "big"],
)
def test_metadata_survives_whole(metadata: dict, tmp_path: Path):
    write_video(moving_square(), tmp_path / "clip.mp4", metadata=metadata)
    assert read_metadata(tmp_path / "clip.mp4") == metadata
    assert len(read_video(tmp_path / "clip.mp4")) == 5


def test_a_strangers_clip_has_no_metadata(tmp_path: Path):
    write_video(moving_square(), tmp_path / "clip.mp4")
    with pytest.raises(DataError, match="says nothing of how it was made"):
        read_metadata(tmp_path / "clip.mp4")


@pytest.mark.parametrize("read", [read_video, read_metadata])
def test_what_is_no_video_is_named(read, tmp_path: Path):
    (tmp_path / "notes.mp4").write_text("not a video")
    with pytest.raises(DataError, match=r"notes\.mp4 cannot be read as a video"):
        read(tmp_path / "notes.mp4")
    with pytest.raises(DataError, match="does not exist"):
        read(tmp_path / "none.mp4")


def test_odd_sizes_are_refused_with_the_nearest_even_one(tmp_path: Path):
    with pytest.raises(ShapeError, match="Crop to 46x32"):
        write_video(moving_square()[:, :, :47], tmp_path / "clip.mp4")


@pytest.mark.parametrize("clip", [moving_square().astype(np.float32), moving_square()[0], moving_square()[:0]])
def test_only_frames_are_taken(clip: np.ndarray, tmp_path: Path):
    with pytest.raises(ShapeError, match="a clip is uint8"):
        write_video(clip, tmp_path / "clip.mp4")


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_nothing_is_left_and_nothing_is_lost_when_writing_stops(error, tmp_path: Path, monkeypatch):
    write_video(moving_square(), tmp_path / "clip.mp4", metadata={"first": 1})

    def stop(arguments, failure):
        raise error

    monkeypatch.setattr(video, "_ffmpeg", stop)
    with pytest.raises(error):
        write_video(moving_square(), tmp_path / "clip.mp4")
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]
    assert read_metadata(tmp_path / "clip.mp4") == {"first": 1}


def test_a_missing_folder_is_an_error_and_not_made_silently(tmp_path: Path):
    with pytest.raises(DataError, match="is not a folder"):
        write_video(moving_square(), tmp_path / "none" / "clip.mp4")


def test_metadata_is_plain_json_in_the_comment_for_other_tools(tmp_path: Path):
    write_video(moving_square(), tmp_path / "clip.mp4", metadata={"seed": 7})
    assert json.dumps({"seed": 7}).encode() in (tmp_path / "clip.mp4").read_bytes()


def test_a_colon_in_a_path_is_no_protocol(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("12:30").mkdir()
    for name in ("x:1.mp4", "12:30/y.mp4"):
        write_video(np.full((2, 16, 16, 3), 90, np.uint8), name, metadata={"name": name})
        assert read_metadata(name) == {"name": name} and read_video(name).shape == (2, 16, 16, 3)


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_shows_the_frames_and_keeps_its_tags(form: str, tmp_path: Path):
    path = tmp_path / f"clip{FORMATS[form].suffix}"
    tags = {"prompt": '{"text": "a=b; #1\\n é"}', "workflow": "{}"}
    encode_video(moving_square(9), path, 8, tags, form, quality=90)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    with Image.open(path) if form in ("gif", "webp") else contextlib.nullcontext() as picture:
        if picture is not None:
            frames = np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(picture)])
            written = picture.info.get("exif", b"").decode("utf-8", "replace")
        else:
            frames, written = read_video(path), path.read_bytes().decode("utf-8", "replace")
    assert frames.shape == (9, 32, 48, 3)
    assert np.abs(frames.astype(int) - moving_square(9)).mean() < 4
    if form != "gif":
        assert all(text in written for text in tags.values())
    if form == "webp":
        assert all(f"{name}:{text}" in written for name, text in tags.items())


def test_higher_quality_is_closer_and_larger(tmp_path: Path):
    noisy = np.random.default_rng(0).integers(0, 255, (5, 64, 64, 3), dtype=np.uint8)
    for form in ("mp4 h264", "mp4 h265", "webm vp9"):
        sizes, errors = [], []
        for quality in (20, 60, 100):
            path = tmp_path / f"{quality}{FORMATS[form].suffix}"
            encode_video(noisy, path, 8, {}, form, quality)
            sizes.append(path.stat().st_size)
            errors.append(np.abs(read_video(path).astype(int) - noisy).mean())
        assert sizes == sorted(sizes) and errors == sorted(errors, reverse=True)


@pytest.mark.parametrize(("form", "quality"), [("avi", 80), ("mp4 h264", 0), ("webm vp9", 101)])
def test_an_unknown_format_or_quality_is_refused_by_name(form: str, quality: int, tmp_path: Path):
    with pytest.raises(ConfigError, match="mp4 h264"):
        encode_video(moving_square(), tmp_path / "clip.mp4", 8, {}, form, quality)
