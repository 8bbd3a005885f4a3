"""What training reads: ``manifest.jsonl`` of ``training.data.record``, and the official folders beside it."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from training.data.record import OFFICIAL_REFERENCES, Picture, Record, write_manifest

from .clip import Clip
from .own_folder import remove, renew
from .report_sheets import as_trained
from .review_decisions import MANIFEST, decided, read_decisions

OFFICIAL = "official"


@dataclass(frozen=True)
class ExportConfig:
    """``official``: also write ``videos/ labels/ references/`` as the official loader reads them."""

    official: bool = True


def export(out: Path, clips: Sequence[Clip], config: ExportConfig) -> tuple[Record, ...]:
    """A record for each kept clip; decisions of a review are in it, whenever they were made."""
    kept = [record_of(clip) for clip in clips if clip.dropped is None and clip.references]
    records = tuple(decided(kept, read_decisions(out)))
    unfinished = out / f"{MANIFEST}.part"
    write_manifest(unfinished, records)
    os.replace(unfinished, out / MANIFEST)
    if config.official:
        write_official(out, records)
    return records


def record_of(clip: Clip) -> Record:
    return Record(
        clip.id,
        clip.video,
        clip.caption,
        references=clip.references,
        fps=clip.fps,
        frames=clip.frames,
        width=clip.width,
        height=clip.height,
        source=clip.source,
        start=clip.start,
        metrics=clip.metrics,
        stages=_told(clip),
    )


def _told(clip: Clip) -> dict[str, str]:
    """Each stage's version, settings and models; and who captioned: that may be no model at all."""
    by = (
        {"captions": f"{clip.stages['captions']} caption by {clip.caption_source}"} if "captions" in clip.stages else {}
    )
    return {**clip.stages, **by}


def write_official(out: Path, records: Sequence[Record]) -> None:
    """Numbered from 0; of each subject the heaviest picture, three at most. Pictures have white around."""
    unfinished, final = out / f"{OFFICIAL}.part", out / OFFICIAL
    renew(unfinished)
    for folder in ("videos", "labels", "references"):
        (unfinished / folder).mkdir()
    for number, record in enumerate(records):
        _link(out / record.video, unfinished / "videos" / f"{number}.mp4")
        (unfinished / "labels" / f"{number}.txt").write_text(record.caption + "\n", encoding="utf-8")
        folder = unfinished / "references" / str(number)
        folder.mkdir()
        for picture, name in zip(_heaviest(record), OFFICIAL_REFERENCES, strict=False):
            Image.fromarray(as_trained(out, picture)).save(folder / name)
    remove(final)
    os.replace(unfinished, final)


def _heaviest(record: Record) -> list[Picture]:
    return [max(pictures, key=lambda picture: picture.weight) for pictures in record.subjects]


def _link(source: Path, target: Path) -> None:
    """The same file under another name; a copy where the system cannot."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
