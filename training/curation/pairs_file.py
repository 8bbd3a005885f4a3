"""What is known of a clip's pictures, in a file beside them: how alike, how different in pose, from which clip."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from training.typed import build

from .clip import Clip


@dataclass(frozen=True)
class Pairing:
    """A picture of ``subject``: ``likeness`` to its source or to the clip's own track, ``pose`` its smallest
    difference from the sights it must not copy, before it was changed; ``other`` is the clip that the subject was cut
    out of, when it is not the clip itself, and ``backdrop`` the one whose place it is before."""

    path: str
    kind: str
    subject: str
    likeness: float
    pose: float
    other: str = ""
    backdrop: str = ""


def path(clip: Clip) -> str:
    return f"clips/{clip.id}/pairs.json"


def write(file: Path, pairings: Sequence[Pairing]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps([asdict(pairing) for pairing in pairings], indent=1), encoding="utf-8")


def read(file: Path) -> tuple[Pairing, ...]:
    """Empty where there is no file."""
    if not file.is_file():
        return ()
    return tuple(build(Pairing, entry) for entry in json.loads(file.read_text(encoding="utf-8")))
