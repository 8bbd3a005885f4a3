"""What a stage is: a named, versioned function from clips to clips, and how it is run over many."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, TypeVar

from kaleido_core.errors import ConfigError, DataError

from .clip import Clip

logger = logging.getLogger("kaleido.curation")
T = TypeVar("T")


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


def failed(stage: str, clip: Clip, error: Exception) -> Clip:
    """Dropped: its file cannot be read, or the stage failed on it."""
    logger.warning("%s: %s fails: %s", clip.id, stage, error)
    fault = "unreadable" if isinstance(error, DataError) else "error"
    return clip.leave(stage, fault, detail=f"{type(error).__name__}: {error}")


def of_each(stage: str, clips: Sequence[Clip], work: Callable[[Clip], T]) -> tuple[list[tuple[Clip, T]], list[Clip]]:
    """What ``work`` gives, clip by clip, and the clips on which it failed: one must not stop a million others."""
    made: list[tuple[Clip, T]] = []
    faulty: list[Clip] = []
    for clip in clips:
        try:
            made.append((clip, work(clip)))
        except ConfigError:
            raise  # a missing package or model is no fault of the clip
        except Exception as error:  # whatever OpenCV, numpy or a model raises
            faulty.append(failed(stage, clip, error))
    return made, faulty
