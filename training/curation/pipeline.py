"""The stages in their order, and a whole run: raw videos in, clips, manifest and report out."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Protocol

from kaleido_core.errors import ConfigError
from training.data.record import Record

from . import engine
from .captions import Captions
from .captions_final import CaptionsFinal
from .clip import Clip
from .clips_file import write_clips
from .config import CurationConfig
from .duplicates import Duplicates
from .export import export
from .ingest import Ingest, find_videos
from .models import make
from .pairs import Pairs
from .plates import Plates
from .quality import Quality
from .references import References
from .report import write_report
from .shots import Shots
from .stage import Place, Resources, Stage
from .subjects import Subjects
from .video import read_pictures

LARGE = 16.0  # GiB of a machine's memory, for a worker with large models


class Engine(Protocol):
    """``engine.run``, or another with the same results."""

    def __call__(
        self, stages: Sequence[Stage], clips: Sequence[Clip], place: Place, workers: int = 1, tell: engine.Tell = ...
    ) -> list[Clip]: ...


def make_stages(config: CurationConfig) -> list[Stage]:
    """Models are named here and loaded by the workers that need them."""
    named = config.models
    folder = Path(named.folder).resolve()  # workers may stand in another folder
    detector = partial(make.detector, named.detector, folder)
    segmenter = partial(make.segmenter, named.segmenter, folder)
    embedder = partial(make.embedder, named.embedder, folder)
    faces = partial(make.faces, named.faces, folder) if named.faces else None
    text = partial(make.text, named.text, folder) if named.text else None
    image_text = partial(make.image_text, named.image_text, folder) if named.image_text else None
    captioner = partial(make.captioner, named.captioner, folder, detector)
    inpainter = partial(make.inpainter, named.inpainter, folder)
    needs = Resources(gpus=named.gpus, gibibytes=LARGE) if named.gpus else None
    return [
        Ingest(config.ingest),
        Shots(config.shots),
        Quality(config.quality, text),
        Duplicates(config.duplicates),
        Captions(config.captions, captioner, named.captioner.partition(":")[0], needs),
        Subjects(config.subjects, detector, segmenter, embedder, faces, image_text, needs),
        References(config.references),
        Plates(config.plates, detector, segmenter, inpainter, needs),
        Pairs(config.pairs, embedder, faces, inpainter),
        CaptionsFinal(config.captions_final),
    ]


def curate(
    raw: Path,
    out: Path,
    config: CurationConfig,
    run: Engine = engine.run,
    workers: int = 1,
    tell: engine.Tell = engine.silent,
    prepare: Callable[[list[Clip]], list[Clip]] = list,
) -> tuple[Record, ...]:
    """The records of ``out/manifest.jsonl``; beside it ``clips.jsonl``, ``report.html`` and all pictures.

    ``prepare`` may choose among the videos that were found.
    """
    if out.resolve().is_relative_to(raw.resolve()):
        raise ConfigError(
            f"{out} lies in {raw}: its clips would be taken for raw videos by the next run. Name a folder beside it."
        )
    out.mkdir(parents=True, exist_ok=True)
    _write_settings(out, config)
    found = find_videos(raw, config.ingest.gibibytes)
    clips = run(make_stages(config), prepare(found), Place(out), workers, tell)
    write_clips(out / "clips.jsonl", clips)
    records = export(out, clips, config.export)
    write_report(out, clips, read_pictures)
    return records


def _write_settings(out: Path, config: CurationConfig) -> None:
    (out / "settings.json").write_text(json.dumps(asdict(config), indent=1) + "\n", encoding="utf-8")
