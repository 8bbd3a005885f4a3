"""Which clip a worker has in hand, as a file beside the done-markers: when the worker is gone, it tells of whom."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .clip import Clip
from .stage import EachStage, Place

LETHAL = "ended its worker"
TRIES = 3  # a clip that ended its worker this often is left out: it would end every other one


def _file(stage: EachStage, clip: Clip, place: Place) -> Path:
    return place.out / "state" / stage.name / f"{clip.id}.tries"


def tries(stage: EachStage, clip: Clip, place: Place) -> int:
    """How often work on it began and came to no end, not even an error."""
    try:
        return int(_file(stage, clip, place).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0


@contextmanager
def in_hand(stage: EachStage, clip: Clip, place: Place) -> Iterator[None]:
    """Counts a try, and forgets all of them when it ends by itself."""
    file = _file(stage, clip, place)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(str(tries(stage, clip, place) + 1), encoding="utf-8")
    try:
        yield
    finally:
        finish(stage, clip, place)


def finish(stage: EachStage, clip: Clip, place: Place) -> None:
    """Out of hand."""
    _file(stage, clip, place).unlink(missing_ok=True)


def forget(place: Place) -> None:
    """Of runs before: who ended a whole run from outside ended its workers too, and no clip is to blame."""
    for file in (place.out / "state").glob("*/*.tries"):
        file.unlink(missing_ok=True)


def given_up(stage: EachStage, clip: Clip) -> Clip:
    """Left out, without a marker: another run, with more memory for each worker, tries it again."""
    return clip.leave(stage.name, LETHAL, TRIES, TRIES, "out of memory, or a crash in a library; try fewer --workers")
