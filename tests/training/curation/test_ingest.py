"""What is found below a folder, what is told beside it, and why a video is not taken."""

import json
import shutil
from pathlib import Path

import pytest

from kaleido_core.errors import DataError
from training.curation import engine, ingest
from training.curation.clip import Clip, Drop
from training.curation.ingest import Ingest, IngestConfig, find_videos
from training.curation.stage import Place
from training.data.record import Record

from .films import ffmpeg, make


def judged(raw: Path, out: Path, config: IngestConfig | None = None) -> dict[str, Clip]:
    """Clips by the names of their files, after ``ingest``."""
    clips = engine.run([Ingest(config or IngestConfig())], find_videos(raw), Place(out))
    return {Path(clip.source.path).name: clip for clip in clips}


def reason(clip: Clip) -> str:
    return clip.dropped.reason if clip.dropped else ""


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    (tmp_path / "raw").mkdir()
    return tmp_path / "raw"


def test_videos_are_found_at_any_depth_by_their_suffix_and_nothing_else(raw: Path):
    (raw / "deep").mkdir()
    for name in ("b.MP4", "deep/a.mkv", "notes.txt", "image.png"):
        (raw / name).write_bytes(name.encode())
    assert [Path(clip.source.path).name for clip in find_videos(raw)] == ["b.MP4", "a.mkv"]


def test_an_id_stays_when_other_videos_come_and_differs_for_files_of_one_name(raw: Path):
    for folder in ("x", "y"):
        (raw / folder).mkdir()
        (raw / folder / "a.mp4").write_bytes(folder.encode())
    before = {clip.id for clip in find_videos(raw)}
    (raw / "0.mp4").write_bytes(b"new")
    assert len(before) == 2 and before < {clip.id for clip in find_videos(raw)}


def test_a_name_of_any_signs_gives_an_id_that_can_name_a_file(raw: Path):
    (raw / " -ü $(x); 'a' 100%.mp4").write_bytes(b"1")
    (clip,) = find_videos(raw)
    assert not set(clip.id) & set(" $();'%/.")
    assert Record(clip.id, "a.mp4", "")  # which refuses a dash at the beginning


def test_a_video_that_cannot_be_read_is_dropped_and_a_huge_one_is_never_hashed(
    raw: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(path: Path) -> str:
        if path.name == "closed.mp4":
            raise PermissionError(13, "Permission denied", str(path))
        assert path.name == "good.mp4"
        return "0" * 40

    monkeypatch.setattr(ingest, "_sha1", refuse)
    for name, size in (("closed.mp4", 9), ("good.mp4", 9), ("huge.mp4", 4000)):
        (raw / name).write_bytes(bytes(size))
    clips = find_videos(raw, most=1000 / 2**30)
    assert [reason(clip) for clip in clips] == ["unreadable", "", "large"]


def test_paths_are_whole_for_workers_that_stand_elsewhere(raw: Path, monkeypatch: pytest.MonkeyPatch):
    (raw / "a.mp4").write_bytes(b"a")
    monkeypatch.chdir(raw.parent)
    assert find_videos(Path("raw"))[0].source.path == str(raw / "a.mp4")


def test_copies_of_a_file_are_dropped_with_the_name_of_the_first(raw: Path, tmp_path: Path):
    shutil.copy(make(raw / "a.mp4"), raw / "b.mp4")
    clips = judged(raw, tmp_path / "out")
    assert reason(clips["a.mp4"]) == ""
    assert clips["b.mp4"].dropped == Drop("ingest", "same file", detail=str(raw / "a.mp4"))


def test_every_sort_of_broken_video_is_dropped_with_a_reason_and_a_healthy_one_is_not(raw: Path, tmp_path: Path):
    whole = make(raw / "good.mp4").read_bytes()
    (raw / "empty.mp4").write_bytes(b"")
    (raw / "text.avi").write_bytes(b"no video at all " * 100)
    (raw / "halved.mp4").write_bytes(whole[: len(whole) // 2])
    make(raw / "one_frame.mp4", 1 / 12)
    ffmpeg("-f", "lavfi", "-i", "sine=duration=1", "-c:a", "aac", raw / "sound.mp4")
    make(raw / "wide.mp4", 0.2, "640x16")
    make(raw / "long.mp4", 3.0)
    clips = judged(raw, tmp_path / "out", IngestConfig(side=600, hours=2.0 / 3600))
    assert {name: reason(clip) for name, clip in clips.items()} == {
        "good.mp4": "",
        "empty.mp4": "unreadable",
        "text.avi": "unreadable",
        "halved.mp4": "unreadable",
        "one_frame.mp4": "single frame",
        "sound.mp4": "unreadable",
        "wide.mp4": "large",
        "long.mp4": "long",
    }
    assert all(clip.dropped.stage == "ingest" for clip in clips.values() if clip.dropped)


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mkv", ("-c:v", "ffv1", "-pix_fmt", "yuv444p10le")),
        ("a.avi", ("-c:v", "mjpeg", "-pix_fmt", "yuvj420p")),
        ("a.webm", ("-c:v", "libvpx", "-deadline", "realtime")),
        ("a.mpg", ("-c:v", "mpeg2video", "-r", "25")),
        ("a.gif", ()),
        ("a.mov", ("-c:v", "prores")),
    ],
)
def test_codecs_of_other_times_and_places_are_taken(raw: Path, tmp_path: Path, name: str, codec: tuple[str, ...]):
    make(raw / name, extra=codec)
    clip = judged(raw, tmp_path / "out")[name]
    assert clip.dropped is None and clip.frames >= 12 and (clip.width, clip.height) == (96, 64)


def test_a_huge_file_is_not_even_opened(raw: Path, tmp_path: Path):
    with (raw / "huge.mp4").open("wb") as file:
        file.truncate(2**20)  # a hole: it takes no space
    assert reason(judged(raw, tmp_path / "out", IngestConfig(gibibytes=2**-11))["huge.mp4"]) == "large"


def test_what_stands_beside_a_video_is_taken_along(raw: Path):
    told = {"caption": "A cat on a lawn.", "words": ["cat"], "licence": "CC-BY-4.0", "url": "https://example.org/a"}
    (raw / "a.mp4").write_bytes(b"a")
    (raw / "a.json").write_text(json.dumps(told))
    (raw / "b.mp4").write_bytes(b"b")
    (raw / "b.txt").write_text("A dog.\nand more")
    first, second = find_videos(raw)
    assert (first.caption, first.words, first.caption_source) == ("A cat on a lawn.", ("cat",), "sidecar")
    assert (first.source.licence, first.source.url) == ("CC-BY-4.0", "https://example.org/a")
    assert (second.caption, second.source.licence) == ("A dog.", "unknown")
    assert first.source.sidecar != second.source.sidecar != ""


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.json", b"{", "a.json"),
        ("a.json", b'{"captions": "A cat."}', "captions is unknown"),
        ("a.json", b'{"caption": "A cat.", "words": ["dog"]}', "'dog' is no part"),
        ("a.txt", b"\xff\xfe\x00", "a.txt is no text"),
    ],
)
def test_a_wrong_sidecar_drops_its_video_and_no_other(raw: Path, name: str, text: bytes, told: str):
    for video in ("a.mp4", "b.mp4"):
        (raw / video).write_bytes(video.encode())
    (raw / name).write_bytes(text)
    first, second = find_videos(raw)
    assert first.dropped and first.dropped.reason == "sidecar" and told in first.dropped.detail
    assert second.dropped is None


def test_a_folder_without_videos_is_an_error_that_says_so(tmp_path: Path):
    with pytest.raises(DataError, match="holds no video"):
        find_videos(tmp_path)
    with pytest.raises(DataError, match="no folder"):
        find_videos(tmp_path / "absent")
