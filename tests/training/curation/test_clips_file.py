"""Clips survive the way through their file, and a damaged line is named."""

from pathlib import Path

import pytest

from kaleido_core.errors import DataError
from training.curation.clip import Clip, Drop, Sight, Track
from training.curation.clips_file import read_clips, write_clips
from training.data.record import Picture, Source

SIGHT = Sight(0.5, (1.0, 2.0, 30.0, 40.0), 0.9, "mask.png", {"sharp": 51.5})
CLIP = Clip(
    "a-0001",
    Source("raw/ä.mp4", "00ff", "CC-BY"),
    1.5,
    6.5,
    640,
    480,
    23.976,
    120,
    "clips/a-0001/clip.mp4",
    "Ein Kätzchen läuft.",
    "sidecar",
    ("Kätzchen",),
    {"luma": 0.1 + 0.2},
    (Track("t1", "cat", "caption", (SIGHT,), "t1.npz", True, Drop("references", "blur", 1, 2)),),
    (Picture("a.png", "t1", "cat", mask="m.png", weight=4.0, kind="cross_clip"),),
    (Drop("pairs", "pose", 0.1, 0.22, "b.png"),),
    {"ingest": "1"},
    {"ingest": 0.25},
    Drop("pairs", "no pair"),
)


def test_a_clip_is_read_as_it_was_written_in_every_field(tmp_path: Path):
    clips = [CLIP, Clip("b", Source("b.mp4"))]
    write_clips(tmp_path / "clips.jsonl", clips)
    assert read_clips(tmp_path / "clips.jsonl") == clips
    assert [path.name for path in tmp_path.iterdir()] == ["clips.jsonl"]


def test_a_damaged_line_is_named(tmp_path: Path):
    write_clips(tmp_path / "clips.jsonl", [CLIP])
    with (tmp_path / "clips.jsonl").open("a") as file:
        file.write('{"id": 3}\n')
    with pytest.raises(DataError, match=r"clips\.jsonl, line 2"):
        read_clips(tmp_path / "clips.jsonl")


def test_a_missing_file_says_what_to_do(tmp_path: Path):
    with pytest.raises(DataError, match="Run the curation"):
        read_clips(tmp_path / "clips.jsonl")
