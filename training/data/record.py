"""A training clip as it is written down: one line of ``manifest.jsonl``, or a number in the official folders.

The manifest is what curation gives and what the cache reads; ``training/README.md`` shows a line of it.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from kaleido_core.errors import ConfigError, DataError

from ..typed import build

Role = Literal["subject", "background"]
Review = Literal["", "accept", "reject"]

RESERVED = "empty"  # the cache's file for a caption of no words
ID = re.compile(r"[^\W.][\w.+-]{0,199}")  # it names a file in the cache
OFFICIAL_REFERENCES = ("ref1.png", "ref2.png", "ref3.png")  # the only names that the official loader looks for


@dataclass(frozen=True)
class Source:
    """Where a video comes from, and under which licence; ``sha1`` and ``sidecar`` are of the files' bytes."""

    path: str = ""
    sha1: str = ""
    licence: str = "unknown"
    url: str = ""
    sidecar: str = ""

    @property
    def key(self) -> str:
        """What tells one video from another: its bytes, where they are known, else its path."""
        return self.sha1 or self.path


@dataclass(frozen=True)
class Picture:
    """One picture of a subject. Those with the same ``subject`` are alternatives, drawn by ``weight``.

    ``mask`` is a greyscale picture, white where the subject is; the rest of the reference becomes white. It lies over
    the picture as it is seen, or, if it has that size, over the pixels that EXIF turns. A ``background`` is kept
    whole. ``kind`` says how the picture was made, ``review`` what a person thought of it.
    """

    path: str
    subject: str
    label: str = ""
    role: Role = "subject"
    mask: str | None = None
    weight: float = 1.0
    kind: str = ""
    review: Review = ""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise ConfigError(f"weight {self.weight}; above 0 is needed. Leave the picture out instead.")
        if self.role == "background" and self.mask is not None:
            raise ConfigError(f"{self.path} is a background with a mask; it is kept whole. Remove one of the two.")


@dataclass(frozen=True)
class Record:
    """A clip, its caption and the pictures that may be its references.

    The clip is ``video`` from ``t0`` to ``t1`` seconds (None: to its end). What stands below ``references`` is only
    told: size and rate of the video, its ``source`` and where it began there (``start``, seconds), scores, and the
    curation stages it went through.
    """

    id: str
    video: str
    caption: str
    t0: float = 0.0
    t1: float | None = None
    references: tuple[Picture, ...] = ()
    fps: float = 0.0
    frames: int = 0
    width: int = 0
    height: int = 0
    source: Source = Source()
    start: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict)
    stages: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not ID.fullmatch(self.id) or self.id == RESERVED:
            raise ConfigError(f"id {self.id!r}; it names a file: letters, digits, _ - + and dots inside. Rename it.")
        if not 0 <= self.t0 < (math.inf if self.t1 is None else self.t1):
            raise ConfigError(f"t0 {self.t0}, t1 {self.t1}; 0 <= t0 < t1 is needed, in seconds. Correct them.")

    @property
    def subjects(self) -> tuple[tuple[Picture, ...], ...]:
        """The alternatives of each subject, in the order in which subjects come; without what a person rejected."""
        groups: dict[str, list[Picture]] = {}
        for picture in self.references:
            if picture.review != "reject":
                groups.setdefault(picture.subject, []).append(picture)
        return tuple(map(tuple, groups.values()))


def read_records(path: Path) -> tuple[Record, ...]:
    """The records of a manifest, or of a folder in the official layout. Raises ``DataError``."""
    records = read_folder(path) if path.is_dir() else read_manifest(path)
    if not records:
        raise DataError(f"{path} holds no record; there is nothing to learn from. Check the path.")
    return records


def read_manifest(path: Path) -> tuple[Record, ...]:
    """One record a line; paths are found from the manifest's folder. ``DataError`` names the file and the line."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # splitlines would also split captions
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as a manifest ({error}); a JSON line per clip is needed.") from error
    records: dict[str, Record] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = build(Record, json.loads(line))
        except (ValueError, ConfigError) as error:
            raise DataError(f"{path}, line {number}: {error}") from error
        if record.id in records:
            raise DataError(f"{path}, line {number}: id {record.id!r} stands above already. Ids differ; rename one.")
        records[record.id] = _located(record, path.parent)
    return tuple(records.values())


def write_manifest(path: Path, records: Iterable[Record]) -> None:
    """A file for ``read_manifest``; paths go in as they are."""
    lines = [json.dumps(asdict(record), ensure_ascii=False, allow_nan=False) for record in records]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def read_folder(root: Path) -> tuple[Record, ...]:
    """The official layout: ``videos/N.mp4``, ``labels/N.txt`` (first line), ``references/N/ref1.png`` to ``ref3.png``.

    A missing or empty label is "". 2 comes before 10.
    """
    videos = sorted((root / "videos").glob("*.mp4"), key=lambda path: _natural(path.stem))
    try:
        return tuple(_official(root, video) for video in videos)
    except ConfigError as error:
        raise DataError(f"{root}: {error}") from error


def _official(root: Path, video: Path) -> Record:
    lines = _label(root / "labels" / f"{video.stem}.txt")
    found = [root / "references" / video.stem / name for name in OFFICIAL_REFERENCES]
    pictures = tuple(Picture(str(path), path.stem) for path in found if path.is_file())
    return Record(video.stem, str(video), lines[0].strip() if lines else "", references=pictures)


def _label(path: Path) -> list[str]:
    """Its lines, without the mark that Windows' editor puts before them."""
    try:
        return path.read_text(encoding="utf-8-sig").splitlines() if path.is_file() else []
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read as a label ({error}); UTF-8 is needed. Save it anew as that."
        ) from error


def _natural(name: str) -> list[tuple[float, str]]:
    """Numbers in a name by their value, before letters."""
    return [(int(digits) if digits else math.inf, letters) for digits, letters in re.findall(r"(\d+)|(\D+)", name)]


def _located(record: Record, folder: Path) -> Record:
    def at(path: str) -> str:
        return str(folder / path)

    pictures = tuple(
        replace(picture, path=at(picture.path), mask=picture.mask and at(picture.mask)) for picture in record.references
    )
    return replace(record, video=at(record.video), references=pictures)
