"""Video files: ffmpeg's words are read right, frames come at their times, nothing hangs or is left half written."""

import time
from pathlib import Path

import numpy as np
import pytest

from kaleido_core.errors import DataError
from training.curation import video

from .films import QUICK, ffmpeg, make, noise, write

REDS = (40, 90, 140, 190, 240)


@pytest.fixture(scope="module")
def reds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One second a shade of red, at 10 frames a second."""
    pictures = [np.full((64, 96, 3), (red, 20, 20), np.uint8) for red in REDS for _ in range(10)]
    return write(tmp_path_factory.mktemp("reds") / "reds.mp4", pictures, fps=10)


def red_of(picture: np.ndarray) -> int:
    shade = float(picture[..., 0].mean())
    return min(range(len(REDS)), key=lambda number: abs(REDS[number] - shade))


def test_a_probe_tells_size_rate_length_and_how_many_frames_there_really_are(tmp_path: Path):
    file = video.probe(make(tmp_path / "a.mp4", 1.5, "96x64", 12))
    assert (file.width, file.height, file.fps, file.frames) == (96, 64, 12, 18)
    assert file.seconds == pytest.approx(1.5, abs=0.05)


def test_a_length_is_that_of_the_pictures_not_of_the_sound_or_of_what_a_title_says(tmp_path: Path):
    title = "Duration: 99:00:00.00, Output #0, Stream #0:0: Video: wrapped_avframe, 9x9, frame= 7 time=88:00:00"
    sound = ("-f", "lavfi", "-i", "sine=duration=4")
    ffmpeg(
        "-i", make(tmp_path / "a.mp4", 1.5), *sound, "-c:v", "copy", "-metadata", f"title={title}", tmp_path / "b.mp4"
    )
    file = video.probe(tmp_path / "b.mp4")
    assert file.seconds == pytest.approx(1.5, abs=0.05)
    assert (file.width, file.height, file.frames) == (96, 64, 18)


def test_a_file_that_tells_no_length_has_one(tmp_path: Path):
    ffmpeg("-i", make(tmp_path / "a.mp4", 1.5), "-c", "copy", "-f", "matroska", "-live", "1", tmp_path / "a.mkv")
    assert video.probe(tmp_path / "a.mkv").seconds == pytest.approx(1.5, abs=0.1)


def test_pixels_that_are_no_squares_become_squares(tmp_path: Path):
    wide = make(tmp_path / "wide.mp4", extra=("-vf", "setsar=4/3", *QUICK))
    file = video.probe(wide)
    assert (file.width, file.height) == (128, 64)
    assert video.read_pictures(wide, [0.2])[0].shape == video.sample(wide, 2.0)[1][0].shape == (64, 128, 3)
    video.cut(wide, 0.0, 0.5, tmp_path / "cut.mp4", crop=(20, 0, 100, 64))
    assert video.probe(tmp_path / "cut.mp4").width == 100


@pytest.mark.parametrize(("system", "limited"), [("linux", True), ("darwin", False), ("win32", False)])
def test_memory_is_limited_where_the_system_can(system: str, limited: bool, monkeypatch: pytest.MonkeyPatch):
    seen: list[object] = []

    def start(*_: object, preexec_fn: object = None, **__: object) -> None:
        seen.append(preexec_fn)
        raise OSError

    monkeypatch.setattr(video.sys, "platform", system)
    monkeypatch.setattr(video.subprocess, "Popen", start)
    with pytest.raises(OSError):
        video.probe(Path("a.mp4"))
    assert [limit is not None for limit in seen] == [limited]


def test_a_turned_video_is_upright(tmp_path: Path):
    flat = make(tmp_path / "flat.mp4")
    ffmpeg("-display_rotation", "90", "-i", flat, "-c", "copy", tmp_path / "turned.mp4")
    file = video.probe(tmp_path / "turned.mp4")
    assert (file.width, file.height) == (64, 96)
    (picture,) = video.read_pictures(tmp_path / "turned.mp4", [0.2])
    assert picture.shape == (96, 64, 3)
    video.cut(tmp_path / "turned.mp4", 0.0, 0.5, tmp_path / "cut.mp4")
    assert video.probe(tmp_path / "cut.mp4").height == 96


def test_frames_are_those_shown_at_their_times(reds: Path):
    assert [red_of(picture) for picture in video.read_pictures(reds, [0.5, 3.5, 1.5, 99.0])] == [0, 3, 1, 4]
    times, pictures = video.sample(reds, 2.0, 1.0, 4.0)
    assert times == [1.0, 1.5, 2.0, 2.5, 3.0, 3.5]
    assert [red_of(picture) for picture in pictures] == [1, 1, 2, 2, 3, 3]


def test_a_sample_is_as_high_as_asked_in_the_videos_shape(reds: Path):
    assert video.sample(reds, 1.0, height=32)[1][0].shape == (32, 48, 3)


def test_times_hold_in_a_video_whose_rate_changes(tmp_path: Path):
    pictures = [np.full((64, 96, 3), (red, 20, 20), np.uint8) for red in REDS]
    even = write(tmp_path / "even.mp4", pictures, fps=1)
    slow_then_fast = "setpts='if(lt(N,2),N*2,4+(N-2)*0.5)/TB'"  # shown at 0, 2, 4, 4.5 and 5 seconds
    uneven = tmp_path / "uneven.mkv"
    ffmpeg("-i", even, "-vf", slow_then_fast, "-fps_mode", "vfr", *QUICK, uneven)
    assert video.probe(uneven).frames == 5
    assert [red_of(picture) for picture in video.read_pictures(uneven, [0.0, 2.0, 4.0, 4.5])] == [0, 1, 2, 3]
    assert [red_of(picture) for picture in video.sample(uneven, 1.0, 0.0, 5.0)[1]] == [0, 0, 1, 1, 2]


def test_a_cut_is_the_asked_time_and_part_of_the_picture(reds: Path, tmp_path: Path):
    video.cut(reds, 1.0, 3.0, tmp_path / "deep" / "cut.mp4", crop=(10, 20, 50, 30))
    file = video.probe(tmp_path / "deep" / "cut.mp4")
    assert (file.width, file.height, file.frames) == (50, 30, 20)
    assert [red_of(picture) for picture in video.read_pictures(tmp_path / "deep/cut.mp4", [0.5, 1.5])] == [1, 2]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["cut.mp4"]


def test_a_cut_keeps_the_colours(tmp_path: Path):
    picture = noise(1)
    video.cut(write(tmp_path / "a.mp4", [picture] * 8), 0.0, 1.0, tmp_path / "cut.mp4")
    before, after = (video.read_pictures(tmp_path / name, [0.4])[0].astype(int) for name in ("a.mp4", "cut.mp4"))
    assert np.abs(before - after).mean() < 4


def test_a_video_of_odd_sides_can_be_cut(tmp_path: Path):
    odd = make(tmp_path / "odd.mkv", 0.5, "97x63", extra=("-c:v", "ffv1", "-pix_fmt", "yuv444p"))
    video.cut(odd, 0.0, 0.5, tmp_path / "cut.mp4")
    assert video.probe(tmp_path / "cut.mp4").width == 96


def test_what_is_damaged_is_named_with_a_way_out(tmp_path: Path):
    whole = make(tmp_path / "a.mp4").read_bytes()
    damaged = {
        "empty.mp4": b"",
        "text.mp4": b"no video at all " * 100,
        "beheaded.mp4": whole[len(whole) // 2 :],
        "halved.mp4": whole[: len(whole) // 2],
    }
    for name, data in damaged.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=f"{name}.*leave it out"):
            video.probe(tmp_path / name)


def test_sound_alone_is_no_video(tmp_path: Path):
    ffmpeg("-f", "lavfi", "-i", "sine=duration=1", "-c:a", "aac", tmp_path / "sound.mp4")
    with pytest.raises(DataError, match=r"sound\.mp4"):
        video.probe(tmp_path / "sound.mp4")


def test_what_takes_too_long_is_ended(tmp_path: Path):
    long = make(tmp_path / "long.mp4", 60, "320x240", 30)
    began = time.monotonic()
    with pytest.raises(DataError, match="took more than"):
        video.probe(long, patience=0.05)
    assert time.monotonic() - began < 5


def test_a_playlist_cannot_send_the_decoder_to_an_address(tmp_path: Path):
    playlist = tmp_path / "list.mp4"
    playlist.write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(DataError):
        video.probe(playlist)


def test_a_name_is_never_a_command_or_an_option(tmp_path: Path):
    name = "-i $(touch hacked); 'a' %d.mp4"
    plain = make(tmp_path / "plain.mp4")
    plain.rename(tmp_path / name)
    assert video.probe(tmp_path / name).frames == 12
    assert not (tmp_path / "hacked").exists()
