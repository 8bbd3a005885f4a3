import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from kaleido_core.errors import ConfigError, DataError
from training.data.record import Picture, Record, Source, read_folder, read_records, write_manifest

CAT = Picture("cat_0.png", "cat", "a cat", mask="cat_0_mask.png", weight=4.0, kind="masked")
RECORD = Record(
    "clip-1",
    "videos/1.mp4",
    "A cat walks.",
    t0=1.5,
    t1=6.5,
    references=(CAT, replace(CAT, path="cat_1.png", review="reject"), Picture("park.png", "park", role="background")),
    source=Source("raw/walk.mp4", licence="CC-BY-4.0", url="https://example.org/walk", sidecar="0f"),
    metrics={"quality.sharpness": 55.0},
    stages={"shots": "0a1b"},
)


def write(folder: Path, *lines: dict | str) -> Path:
    path = folder / "manifest.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_a_manifest_is_read_as_it_was_written_and_its_paths_from_its_folder(tmp_path):
    write_manifest(tmp_path / "manifest.jsonl", [RECORD])
    (read,) = read_records(tmp_path / "manifest.jsonl")
    assert read.video == str(tmp_path / "videos/1.mp4")
    assert read.references[0] == replace(CAT, path=str(tmp_path / CAT.path), mask=str(tmp_path / "cat_0_mask.png"))
    assert replace(read, video=RECORD.video, references=RECORD.references) == RECORD


def test_an_absolute_path_stays(tmp_path):
    write_manifest(tmp_path / "manifest.jsonl", [replace(RECORD, video="/films/1.mp4")])
    assert read_records(tmp_path / "manifest.jsonl")[0].video == "/films/1.mp4"


def test_pictures_of_one_subject_are_alternatives_and_rejected_ones_are_left_out():
    assert [[picture.path for picture in subject] for subject in RECORD.subjects] == [["cat_0.png"], ["park.png"]]


GOOD = {"id": "1", "video": "1.mp4", "caption": ""}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "Expecting"),
        ({"id": "1", "video": "1.mp4"}, "caption is missing"),
        (GOOD | {"fsp": 3}, "fsp is unknown"),
        (GOOD | {"t0": "0"}, "t0 = '0': it must be float"),
        (GOOD | {"t0": 3.0, "t1": 2.0}, "t0 < t1"),
        (GOOD | {"id": "../1"}, "names a file"),
        (GOOD | {"id": "empty"}, "names a file"),
        (GOOD | {"references": [{"path": "a.png"}]}, r"references\[0\].subject is missing"),
        (GOOD | {"references": [{"path": "a.png", "subject": "a", "role": "hero"}]}, "one of 'subject', 'background'"),
        (GOOD | {"references": [{"path": "a.png", "subject": "a", "weight": 0}]}, "above 0"),
        (GOOD | {"references": [{"path": "a", "subject": "a", "role": "background", "mask": "m"}]}, "kept whole"),
        ("[]", "Record is needed"),
        (GOOD | {"id": "0"}, "stands above already"),
    ],
)
def test_a_bad_line_is_named_by_file_and_number(tmp_path, line, said):
    path = write(tmp_path, GOOD | {"id": "0"}, "", line)
    with pytest.raises(DataError, match=rf"manifest\.jsonl, line 3: .*{said}"):
        read_records(path)


def test_nothing_to_read_is_an_error(tmp_path):
    for path in (tmp_path, tmp_path / "missing.jsonl", write(tmp_path, "")):
        with pytest.raises(DataError):
            read_records(path)


def test_ids_are_file_names():
    for name in ("1", "walk_0001-0099", "a.b", "küche"):
        assert replace(RECORD, id=name).id == name
    for name in ("", ".hidden", "a/b", "a\\b", "a b", "x" * 201, "a\n"):
        with pytest.raises(ConfigError):
            replace(RECORD, id=name)


def official(root: Path, files: list[str]) -> Path:
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"caption {Path(name).stem}\nsecond line\n" if name.endswith(".txt") else "")
    return root


def test_the_official_folders_give_the_official_captions_and_references(golden, tmp_path):
    layout = golden.info("dataset")["layout"]
    records = read_records(official(tmp_path, layout["files"]))
    found = [[Path(p.path).relative_to(tmp_path).as_posix() for p in record.references] for record in records]
    assert [record.caption for record in records] == layout["captions"]
    assert found == layout["references"]
    assert all(len(subject) == 1 for record in records for subject in record.subjects)


def test_the_official_folders_may_lack_labels_and_references_and_come_in_natural_order(golden, tmp_path):
    official(tmp_path, ["videos/10.mp4", "videos/2.mp4", "videos/b1.mp4", "labels/10.txt"])
    (tmp_path / "labels/2.txt").write_text("")
    records = read_folder(tmp_path)
    assert [(record.id, record.caption) for record in records] == [("2", ""), ("10", "caption 10"), ("b1", "")]
    assert records[0].caption == golden.info("dataset")["layout"]["missing_caption_gives"]
    assert not records[0].references


def test_labels_are_utf8_with_or_without_a_mark_before_it(tmp_path):
    official(tmp_path, ["videos/1.mp4", "labels/1.txt"])
    (tmp_path / "labels/1.txt").write_bytes("\ufeffA café.\n".encode())
    assert read_folder(tmp_path)[0].caption == "A café."
    (tmp_path / "labels/1.txt").write_bytes("A café.".encode("latin-1"))
    with pytest.raises(DataError, match=r"labels/1\.txt cannot be read as a label .* UTF-8 is needed"):
        read_folder(tmp_path)


def test_a_manifest_may_have_a_mark_before_it_and_any_character_in_a_caption(tmp_path):
    write_manifest(tmp_path / "manifest.jsonl", [replace(RECORD, caption="one\u2028line")])
    text = (tmp_path / "manifest.jsonl").read_text(encoding="utf-8")
    (tmp_path / "manifest.jsonl").write_text("\ufeff" + text, encoding="utf-8")
    assert read_records(tmp_path / "manifest.jsonl")[0].caption == "one\u2028line"


def test_a_record_is_plain_json():
    assert json.loads(json.dumps(asdict(RECORD), allow_nan=False))["references"][0]["mask"] == "cat_0_mask.png"
