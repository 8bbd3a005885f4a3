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
COARSE = 0.02  # seconds by which a file's time may lie before the clock's


@dataclass(frozen=True)
class Entry:
    """``stages`` worked together on ``clips`` that were new to the last of them, for ``seconds`` on the wall."""

    engine: str
    workers: int
    stages: tuple[str, ...]
    clips: int = 0
    seconds: float = 0.0


@contextmanager
def noted(place: Place, entry: Entry) -> Iterator[None]:
    """Writes the entry with time and count when the work inside is done; nothing when all was done before."""
    began, clock = time.perf_counter(), time.time() - COARSE
    yield
    seconds = time.perf_counter() - began
    markers = (place.out / "state" / entry.stages[-1]).glob("*.json")
    clips = sum(_clips(marker) for marker in markers if marker.stat().st_mtime >= clock)
    if clips:
        line = json.dumps(asdict(replace(entry, clips=clips, seconds=round(seconds, 2))))
        with (place.out / FILE).open("a", encoding="utf-8") as file:
            file.write(line + "\n")


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
