"""Which videos there are, where each comes from, and whether it can be read to its end."""

import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from kaleido_core.errors import ConfigError, DataError
from training.data.record import Source
from training.typed import build

from . import video
from .clip import Clip
from .stage import Place, Resources

_CONTAINERS = "mp4 m4v mov mkv webm avi mpg mpeg ts m2ts wmv flv ogv 3gp gif"
SUFFIXES = frozenset(f".{container}" for container in _CONTAINERS.split())


@dataclass(frozen=True)
class IngestConfig:
    """What is not even looked at."""

    gibibytes: float = 16.0  # of a file, at most
    hours: float = 4.0  # that it lasts, at most
    side: int = 8192  # pixels, at most
    frames: int = 2  # at least
    patience: float = 3600.0  # seconds for decoding it once


@dataclass(frozen=True)
class Sidecar:
    """What ``NAME.json`` beside ``NAME.mp4`` may tell. ``words``: the subjects, each a part of ``caption``."""

    caption: str = ""
    words: tuple[str, ...] = ()
    licence: str = "unknown"
    url: str = ""

    def __post_init__(self) -> None:
        missing = [word for word in self.words if word not in self.caption]
        if missing:
            raise ConfigError(f"{missing[0]!r} is no part of the caption {self.caption!r}. Use the caption's words.")


def find_videos(raw: Path, most: float = math.inf) -> list[Clip]:
    """A clip for every video below ``raw``, by name. Copies of a file come after it and are dropped.

    Files of more than ``most`` GiB are not even read.
    """
    raw = raw.resolve()
    if not raw.is_dir():
        raise DataError(f"{raw} is no folder. Name the folder of your videos.")
    files = sorted(path for path in raw.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not files:
        raise DataError(f"{raw} holds no video ({', '.join(sorted(SUFFIXES))}). Name the folder of your videos.")
    first: dict[str, Path] = {}
    clips = []
    for path in files:
        clip = _found(raw, path, most)
        known = first.setdefault(clip.source.sha1 or str(path), path)
        clips.append(clip if known is path else clip.leave("ingest", "same file", detail=str(known)))
    return clips


def _found(raw: Path, path: Path, most: float) -> Clip:
    try:
        size = path.stat().st_size / 2**30
        if size > most:
            return _clip(raw, path, "").leave("ingest", "large", size, most)
        return _clip(raw, path, _sha1(path))
    except OSError as error:  # no leave to read it, or a disk that fails
        return Clip(_name(raw, path, ""), Source(str(path))).leave("ingest", "unreadable", detail=str(error))


def _name(raw: Path, path: Path, sha1: str) -> str:
    """An id that stays when other videos come, and can name a file: no dash or dot at its beginning."""
    name = re.sub(r"[^\w-]+", "_", path.relative_to(raw).with_suffix("").as_posix()).strip("_-")[:60] or "video"
    place = hashlib.sha1(path.relative_to(raw).as_posix().encode()).hexdigest()[:4]
    return f"{name}-{sha1[:6]}{place}"


def _clip(raw: Path, path: Path, sha1: str) -> Clip:
    name = _name(raw, path, sha1)
    try:
        told, side = read_sidecar(path)
    except DataError as error:  # one of a million must not stop the others
        return Clip(name, Source(str(path), sha1)).leave("ingest", "sidecar", detail=str(error))
    beside = _sha1(side) if side else ""
    source = Source(str(path), sha1, told.licence, told.url, beside)
    by = "sidecar" if told.caption else ""
    return Clip(name, source, caption=told.caption, caption_source=by, words=told.words)


def read_sidecar(path: Path) -> tuple[Sidecar, Path | None]:
    """``NAME.json``, or the first line of ``NAME.txt`` as the caption; and which file it was."""
    table, text = path.with_suffix(".json"), path.with_suffix(".txt")
    if table.is_file():
        try:
            return build(Sidecar, json.loads(table.read_text(encoding="utf-8"))), table
        except (ValueError, ConfigError) as error:
            raise DataError(f"{table}: {error}") from error
    if text.is_file():
        try:
            lines = text.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise DataError(f"{text} is no text in UTF-8 ({error}). Save it as that.") from error
        return Sidecar(lines[0].strip() if lines else ""), text
    return Sidecar(), None


def _sha1(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha1").hexdigest()


class Ingest:
    """Each video is decoded once, to its end, in a child process with limits."""

    name: ClassVar[str] = "ingest"
    version: ClassVar[str] = "2"

    def __init__(self, config: IngestConfig) -> None:
        self.config, self.resources = config, Resources()

    def one(self, clip: Clip, place: Place) -> Sequence[Clip]:
        path, config = Path(clip.source.path), self.config
        size = path.stat().st_size / 2**30
        if size > config.gibibytes:
            return [clip.leave(self.name, "large", size, config.gibibytes)]
        file = video.probe(path, config.patience)
        clip = replace(
            clip, end=file.seconds, width=file.width, height=file.height, fps=file.fps, frames=file.frames
        ).measured(seconds=file.seconds)
        if max(file.width, file.height) > config.side:
            return [clip.leave(self.name, "large", max(file.width, file.height), config.side)]
        if file.frames < config.frames:
            return [clip.leave(self.name, "single frame", file.frames, config.frames)]
        if file.seconds > config.hours * 3600:
            return [clip.leave(self.name, "long", file.seconds, config.hours * 3600, metric="seconds")]
        return [clip]
