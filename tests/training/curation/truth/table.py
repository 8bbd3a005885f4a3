"""Precision and recall of every filter on the planted set: ``python -m tests.training.curation.truth.table``."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

from training.curation import engine
from training.curation.clip import Clip
from training.curation.duplicates import Duplicates, DuplicatesConfig
from training.curation.quality import Quality, QualityConfig
from training.curation.shots import ShotsConfig, find_cuts
from training.curation.stage import Place
from training.data.record import Source

from .finders import ink_finder
from .score import HEADER, Score, by_filter, of_moments
from .sets import Planted, copies, films, spoilt_clips

WORKERS = 2


def quality_scores(folder: Path) -> tuple[Score, ...]:
    """Each clip counts for the one reason that it is dropped for; bars are cut off instead, so being found counts."""
    made = spoilt_clips(_made(folder / "clips"))
    stage = Quality(QualityConfig(), text=ink_finder)
    judged = engine.run([stage], [as_clip(one) for one in made], Place(folder), workers=WORKERS)
    return by_filter({one.name: one.plant for one in made}, {clip.id: fault_of(clip) for clip in judged})


def shot_scores(folder: Path) -> tuple[Score, ...]:
    made = films(_made(folder / "clips"))
    return (of_moments("cut", ((one.cuts, find_cuts(as_clip(one), ShotsConfig())) for one in made)),)


def duplicate_scores(folder: Path) -> tuple[Score, ...]:
    """Which of two copies is dropped is the stage's choice; that it names the other one is not."""
    made = copies(_made(folder / "clips"))
    judged = Duplicates(DuplicatesConfig()).all([as_clip(one) for one in made], Place(folder))
    true = {frozenset((one.name, one.copy_of)) for one in made if one.copy_of}
    told = {frozenset((clip.id, clip.dropped.detail)) for clip in judged if clip.dropped}
    return (Score("copy", len(true), len(told), len(true & told)),)


def as_clip(one: Planted) -> Clip:
    """As ``shots`` gives it: cut, in the output folder."""
    scene = one.scene
    return Clip(
        one.name,
        Source(str(one.path), one.name),
        end=scene.seconds,
        width=scene.width,
        height=scene.height,
        fps=float(scene.fps),
        frames=round(scene.seconds * scene.fps),
        video=f"clips/{one.path.name}",
    )


def fault_of(clip: Clip) -> str:
    if clip.dropped is not None:
        return clip.dropped.reason
    return "bars" if clip.metrics.get("bars", 0.0) > 0 else ""


def table(scores: Iterable[Score]) -> str:
    return "\n".join([HEADER, *(score.line() for score in scores)])


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scores = (
            *shot_scores(folder / "shots"),
            *quality_scores(folder / "quality"),
            *duplicate_scores(folder / "copies"),
        )
    print(table(scores))


if __name__ == "__main__":
    main()
