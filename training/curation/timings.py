"""How long stages really took: a line of ``runs.jsonl`` for each time that one worked, by which engine and workers."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from kaleido_core.errors import ConfigError, DataError
from training.typed import build

from .stage import Place

FILE = "runs.jsonl"


@dataclass(frozen=True)
class Entry:
    """``stages`` worked together on ``clips`` that were new to the last of them, for ``seconds`` on the wall."""

    engine: str
    workers: int
    stages: tuple[str, ...]
    clips: int = 0
    seconds: float = 0.0


@contextmanager
def timed(place: Place, entry: Entry) -> Iterator[None]:
    """Writes the entry with time and count when the work inside is done; nothing when all was done before."""
    folder = place.out / "state" / entry.stages[-1]
    began, before = time.perf_counter(), _written(folder)
    yield
    seconds = time.perf_counter() - began
    # Not by the clock: the run before may have written its last marker in the same hundredth of a second.
    clips = sum(_clips(marker) for marker, when in _written(folder).items() if before.get(marker) != when)
    if clips:
        line = json.dumps(asdict(replace(entry, clips=clips, seconds=round(seconds, 2))))
        with (place.out / FILE).open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def _written(folder: Path) -> dict[Path, tuple[int, int]]:
    """Each marker's time and file, of which a new one has its own."""
    return {marker: ((stat := marker.stat()).st_mtime_ns, stat.st_ino) for marker in folder.glob("*.json")}


def _clips(marker: Path) -> int:
    """One, but for a stage that saw all at once."""
    return len(json.loads(marker.read_text(encoding="utf-8"))["clips"]) if marker.stem == "all" else 1


def read(out: Path) -> list[Entry]:
    """What all runs into ``out`` did, those of the same engine, workers and stages added up."""
    file = out / FILE
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    sums: dict[tuple[str, int, Sequence[str]], Entry] = {}
    for number, line in enumerate(lines, start=1):
        try:
            entry = build(Entry, json.loads(line))
        except (ValueError, ConfigError) as error:
            raise DataError(f"{file}, line {number}: {error}. Remove the line.") from error
        key = entry.engine, entry.workers, entry.stages
        before = sums.get(key, Entry(*key))
        sums[key] = replace(entry, clips=before.clips + entry.clips, seconds=before.seconds + entry.seconds)
    return list(sums.values())
