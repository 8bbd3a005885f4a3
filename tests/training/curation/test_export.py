"""What training reads: the manifest holds kept clips only, and both layouts are read back as they were."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("cv2", reason="opencv-python-headless is not installed")

from kaleido_core.errors import DataError
from training.curation.clip import Clip
from training.curation.export import ExportConfig, export
from training.curation.review_decisions import save
from training.data.record import Picture, read_manifest, read_records

from .world import clip_of


def picture(out: Path, name: str, subject: str, shade: int, weight: float = 1.0, mask: bool = False) -> Picture:
    (out / "references").mkdir(exist_ok=True)
    Image.new("RGB", (12, 8), (shade, 0, 0)).save(out / f"references/{name}.png")
    if not mask:
        return Picture(f"references/{name}.png", subject, subject, weight=weight)
    Image.fromarray(np.eye(8, 12, dtype=np.uint8) * 255).save(out / f"references/{name}-mask.png")
    return Picture(f"references/{name}.png", subject, subject, "subject", f"references/{name}-mask.png", weight)


def clip(out: Path, name: str, *pictures: Picture) -> Clip:
    (out / f"clips/{name}").mkdir(parents=True)
    (out / f"clips/{name}/clip.mp4").write_bytes(name.encode())
    return replace(clip_of(name), video=f"clips/{name}/clip.mp4", caption=f"Clip {name}.", references=pictures)


@pytest.fixture
def clips(tmp_path: Path) -> list[Clip]:
    heavy = picture(tmp_path, "heavy", "cat", 50, 4.0, mask=True)
    good = clip(tmp_path, "a", picture(tmp_path, "light", "cat", 200), heavy, picture(tmp_path, "dog", "dog", 100))
    dropped = clip(tmp_path, "b", heavy).leave("pairs", "no pair")
    return [good, dropped, clip(tmp_path, "c"), clip(tmp_path, "d", picture(tmp_path, "d", "cat", 7))]


def test_a_manifest_holds_clips_that_are_kept_and_have_references(tmp_path: Path, clips: list[Clip]):
    records = export(tmp_path, clips, ExportConfig())
    assert [record.id for record in records] == ["a", "d"]
    (first, _) = read_manifest(tmp_path / "manifest.jsonl")
    assert Path(first.video) == tmp_path / "clips/a/clip.mp4" and Path(first.video).is_file()
    assert all(Path(path.path).is_file() for path in first.references)
    assert (first.caption, first.source, first.start) == ("Clip a.", clips[0].source, clips[0].start)


def test_the_official_folders_hold_the_heaviest_picture_of_each_subject_on_white(tmp_path: Path, clips: list[Clip]):
    export(tmp_path, clips, ExportConfig())
    first, second = read_records(tmp_path / "official")
    assert (first.id, first.caption, len(first.references)) == ("0", "Clip a.", 2)
    assert (second.caption, len(second.references)) == ("Clip d.", 1)
    shown = np.asarray(Image.open(tmp_path / "official/references/0/ref1.png").convert("RGB"))
    assert (shown[0, 0].tolist(), shown[0, 5].tolist()) == ([50, 0, 0], [255, 255, 255])
    assert (tmp_path / "official/videos/1.mp4").read_bytes() == b"d"


def test_another_export_leaves_nothing_of_the_one_before(tmp_path: Path, clips: list[Clip]):
    export(tmp_path, clips, ExportConfig())
    export(tmp_path, clips[3:], ExportConfig())
    assert [path.name for path in (tmp_path / "official/videos").iterdir()] == ["0.mp4"]
    assert not list(tmp_path.glob("*.part"))


def test_what_a_person_decided_is_in_the_manifest_of_the_next_run(tmp_path: Path, clips: list[Clip]):
    records = export(tmp_path, clips, ExportConfig())
    save(tmp_path, records, {("a", "references/dog.png"): "reject"})
    first, _ = export(tmp_path, clips, ExportConfig())
    assert [shown.review for shown in first.references] == ["", "", "reject"]
    assert not (tmp_path / "official/references/0/ref2.png").exists()


def test_a_folder_of_that_name_with_files_of_its_own_is_left_alone(tmp_path: Path, clips: list[Clip]):
    (tmp_path / "official").mkdir()
    (tmp_path / "official/mine.txt").touch()
    with pytest.raises(DataError, match="was not made by curation"):
        export(tmp_path, clips, ExportConfig())
    assert (tmp_path / "official/mine.txt").exists()


def test_no_official_folders_when_none_are_asked_for(tmp_path: Path, clips: list[Clip]):
    export(tmp_path, clips, ExportConfig(official=False))
    assert not (tmp_path / "official").exists()
