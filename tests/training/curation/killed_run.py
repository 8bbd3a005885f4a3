"""A run of the engine over made-up clips, to be killed: ``-m tests.training.curation.killed_run FOLDER WORKERS``."""

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from training.curation import engine
from training.curation.clip import Clip
from training.curation.clips_file import write_clips
from training.curation.stage import Place, Resources, Stage
from training.data.record import Source

CLIPS = 8


@dataclass(frozen=True)
class Pause:
    """Seconds that a clip takes: time to be killed in."""

    seconds: float = 0.02


class Part:
    """One clip becomes three, each with a file."""

    name: ClassVar[str] = "part"
    version: ClassVar[str] = "1"

    def __init__(self, config: Pause) -> None:
        self.config, self.resources = config, Resources()

    def one(self, clip: Clip, place: Place) -> Sequence[Clip]:
        parts = [replace(clip, id=f"{clip.id}-{number}", start=float(number)) for number in range(3)]
        for part in parts:
            time.sleep(self.config.seconds / 3)
            (place.folder(part) / "part.txt").write_text(part.id)
        return parts


class Odd:
    """Drops every fourth clip, measures the others; tells in ``calls`` whenever it is asked, and in which process."""

    name: ClassVar[str] = "odd"
    version: ClassVar[str] = "1"

    def __init__(self, config: Pause) -> None:
        self.config, self.resources = config, Resources()

    def one(self, clip: Clip, place: Place) -> Sequence[Clip]:
        with (place.out.parent / "calls").open("a") as calls:
            calls.write(f"{clip.id} {os.getpid()}\n")
        time.sleep(self.config.seconds)
        number = int(clip.id.split("-")[0]) * 3 + int(clip.id.split("-")[1])
        (place.folder(clip) / "odd.txt").write_text(str(number))
        return [clip.leave(self.name, "fourth", number) if number % 4 == 0 else clip.measured(number=number)]


class Count:
    """Tells every clip how many there are."""

    name: ClassVar[str] = "count"
    version: ClassVar[str] = "1"

    def __init__(self, config: Pause) -> None:
        self.config = config

    def all(self, clips: Sequence[Clip], place: Place) -> Sequence[Clip]:
        time.sleep(self.config.seconds)
        return [clip.measured(count=len(clips)) for clip in clips]


def stages(pause: float = 0.02) -> list[Stage]:
    return [Part(Pause(pause)), Odd(Pause(pause)), Count(Pause(pause))]


def clips() -> list[Clip]:
    return [Clip(str(number), Source(f"raw/{number}.mp4")) for number in range(CLIPS)]


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    write_clips(folder / "clips.jsonl", engine.run(stages(), clips(), Place(folder), int(sys.argv[2])))
