"""What a stage is: a named, versioned function from clips to clips, and how it is run over many."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from .clip import Clip


@dataclass(frozen=True)
class Resources:
    """What one worker of a stage takes; engines that spread work over machines ask for it."""

    cpus: float = 1.0
    gpus: float = 0.0
    gibibytes: float = 1.0


@dataclass(frozen=True)
class Place:
    """Where a stage may write, and nowhere else: ``out`` and the clip's own folder in it."""

    out: Path

    def folder(self, clip: Clip) -> Path:
        """The clip's folder, made when it is missing."""
        folder = self.out / "clips" / clip.id
        folder.mkdir(parents=True, exist_ok=True)
        return folder


class EachStage(Protocol):
    """Sees one clip at a time: it can run anywhere, in any order. One clip may become several (shots), or a dropped
    one. Models are loaded at the first call."""

    name: ClassVar[str]
    version: ClassVar[str]
    resources: Resources

    def one(self, clip: Clip, place: Place) -> Sequence[Clip]: ...


class AllStage(Protocol):
    """Sees all kept clips at once (near-duplicates, pairs across clips): it runs in one place."""

    name: ClassVar[str]
    version: ClassVar[str]

    def all(self, clips: Sequence[Clip], place: Place) -> Sequence[Clip]: ...


Stage = EachStage | AllStage
