"""Attempts of a stage at a clip that have not ended, in a file beside the done-markers: it outlives a worker."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .clip import Clip
from .stage import EachStage, Place

LETHAL = "ended its worker"
TRIES = 3  # a clip that ended its worker this often is left out: it would end every other one


def _file(stage: EachStage, clip: Clip, place: Place) -> Path:
    return place.out / "state" / stage.name / f"{clip.id}.tries"


def attempts(stage: EachStage, clip: Clip, place: Place) -> int:
    """How often work on it began and came to no end, not even an error."""
    try:
        return int(_file(stage, clip, place).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0


@contextmanager
def attempt(stage: EachStage, clip: Clip, place: Place) -> Iterator[None]:
    """Counts an attempt, and forgets all of them when it ends by itself."""
    file = _file(stage, clip, place)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(str(attempts(stage, clip, place) + 1), encoding="utf-8")
    try:
        yield
    finally:
        finish(stage, clip, place)


def finish(stage: EachStage, clip: Clip, place: Place) -> None:
    """No attempt is open any more."""
    _file(stage, clip, place).unlink(missing_ok=True)


def forget(place: Place) -> None:
    """Of runs before: who ended a whole run from outside ended its workers too, and no clip is to blame."""
    for file in (place.out / "state").glob("*/*.tries"):
        file.unlink(missing_ok=True)


def given_up(stage: EachStage, clip: Clip) -> Clip:
    """Left out, without a marker: another run, with more memory for each worker, tries it again."""
    return clip.leave(stage.name, LETHAL, TRIES, TRIES, "out of memory, or a crash in a library; try fewer --workers")
