"""Clips as lines of JSON: ``clips.jsonl`` holds every clip of a run, dropped or not."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from kaleido_core.errors import ConfigError, DataError
from training.typed import build

from .clip import Clip


def write_clips(path: Path, clips: Sequence[Clip]) -> None:
    """At once or not at all: the file never holds a part."""
    lines = [json.dumps(asdict(clip), ensure_ascii=False, allow_nan=False) for clip in clips]
    unfinished = path.with_name(path.name + ".part")
    unfinished.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    os.replace(unfinished, path)


def read_clips(path: Path) -> list[Clip]:
    """What ``write_clips`` wrote. ``DataError`` names the file and the line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error}). Run the curation into this folder first.") from error
    clips = []
    for number, line in enumerate(lines, start=1):
        try:
            clips.append(build(Clip, json.loads(line)))
        except (ValueError, ConfigError) as error:
            raise DataError(f"{path}, line {number}: {error}") from error
    return clips
