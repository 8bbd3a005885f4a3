"""What a person decided about pictures: kept in a file of its own, so that another run of curation finds it again."""

import functools
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from kaleido_core.errors import ConfigError, DataError
from training.data.record import Record, Review, write_manifest
from training.typed import build

DECISIONS, MANIFEST = "decisions.jsonl", "manifest.jsonl"

Key = tuple[str, str]  # a record's id, a picture's path


@dataclass(frozen=True)
class Decision:
    """``picture`` (its path) of the clip ``clip`` was accepted, rejected or, "", put back; ``sha1``: its file then."""

    clip: str
    picture: str
    review: Review
    sha1: str = ""


def read_decisions(out: Path) -> dict[Key, Review]:
    """By clip and picture, where the picture is still the one that was looked at: another run may name another so."""
    told = _decisions(out)
    return {key: decision.review for key, decision in told.items() if decision.sha1 in ("", _sha1(out / key[1]))}


def _decisions(out: Path) -> dict[Key, Decision]:
    file = out / DECISIONS
    if not file.is_file():
        return {}
    decisions = (_built(Decision, file, *numbered) for numbered in _lines(file))
    return {(decision.clip, decision.picture): decision for decision in decisions}


def _sha1(picture: Path) -> str:
    """Of the file; "" where there is none."""
    try:
        told = picture.stat()
        return _sha1_of(picture, told.st_size, told.st_mtime_ns)
    except OSError:
        return ""


@functools.lru_cache(100_000)
def _sha1_of(picture: Path, _size: int, _changed: int) -> str:
    return hashlib.sha1(picture.read_bytes()).hexdigest()


def decided(records: Iterable[Record], decisions: Mapping[Key, Review]) -> tuple[Record, ...]:
    """The records with what a person thought of their pictures; pictures nobody saw stay as they are."""

    def one(record: Record) -> Record:
        pictures = (replace(p, review=decisions.get((record.id, p.path), p.review)) for p in record.references)
        return replace(record, references=tuple(pictures))

    return tuple(map(one, records))


def read_plain(out: Path) -> tuple[Record, ...]:
    """The manifest's records with their paths as they stand there, from ``out``."""
    file = out / MANIFEST
    if not file.is_file():
        raise DataError(f"{out} holds no {MANIFEST}; pairs are reviewed after curation has exported. Run it first.")
    return tuple(_built(Record, file, *numbered) for numbered in _lines(file))


def save(out: Path, records: Iterable[Record], decisions: Mapping[Key, Review]) -> None:
    """Both files, each whole or as it was; decisions first, so that a crash between them loses none.

    Those on pictures that are others by now are kept: the settings of then may come back.
    """
    now = {key: Decision(*key, review, _sha1(out / key[1])) for key, review in decisions.items()}
    lines = [asdict(decision) for _, decision in sorted((_decisions(out) | now).items())]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    part = out / f"{DECISIONS}.part"
    part.write_text(text, encoding="utf-8")
    _settle(part, out / DECISIONS)
    part = out / f"{MANIFEST}.part"
    write_manifest(part, records)
    _settle(part, out / MANIFEST)


def _settle(part: Path, file: Path) -> None:
    """Onto the disk before it takes the old file's name."""
    with part.open("rb") as written:
        os.fsync(written.fileno())
    os.replace(part, file)


def _lines(file: Path) -> list[tuple[int, str]]:
    lines = file.read_text(encoding="utf-8").splitlines()
    return [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def _built(kind: type, file: Path, number: int, line: str):
    try:
        return build(kind, json.loads(line))
    except (ValueError, ConfigError) as error:
        raise DataError(f"{file}, line {number}: {error}") from error
