"""From raw video to a training set.

``python -m training.curation RAW OUT [--config FILE]`` reads videos below RAW and writes clips, references, a manifest
and a report into OUT, and nothing elsewhere. Killed at any time, it goes on where it was.
``python -m training.curation fetch-models DIR``, ``... report OUT`` and ``... review OUT`` fetch the models of the
local settings, write the report anew, and show pairs to accept or reject.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from kaleido_core.errors import KaleidoError

from . import engine
from .config import CurationConfig, read_config
from .pipeline import Engine, curate


class Progress:
    """A bar for each stage, with the time left."""

    def __init__(self) -> None:
        self._stage, self._bar = "", None

    def __call__(self, stage: str, done: int, count: int) -> None:
        if stage != self._stage or self._bar is None:
            self.close()
            self._stage, self._bar = stage, tqdm(total=count, desc=stage, unit="clip", file=sys.stderr)
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def main(words: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if words is None else words
    try:
        if words and words[0] == "fetch-models":
            from .fetch_models import main as command
        elif words and words[0] == "report":
            from .report import main as command
        elif words and words[0] == "review":
            from .review import main as command
        else:
            return _curate(words)
        command(words[1:])
    except KaleidoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; run the same again to go on", file=sys.stderr)
        return 130
    return 0


def _curate(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.curation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("raw", type=Path, help="folder of videos, with NAME.txt or NAME.json beside NAME.mp4")
    parser.add_argument("out", type=Path)
    parser.add_argument("--config", type=Path, help="such as training/configs/curation_local.toml")
    parser.add_argument("--models", help="folder that fetch-models filled")
    parser.add_argument("--workers", type=int, default=1, help="processes, each with its own models")
    parser.add_argument("--engine", choices=("local", "ray"), default="local")
    parser.add_argument("--only", type=int, help="the first videos only, to try the settings")
    arguments = parser.parse_args(words)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    config = read_config(arguments.config) if arguments.config else CurationConfig()
    if arguments.models:
        config = replace(config, models=replace(config.models, folder=arguments.models))
    progress = Progress()
    try:
        records = curate(
            arguments.raw,
            arguments.out,
            config,
            _engine(arguments.engine),
            arguments.workers,
            progress,
            lambda clips: clips[: arguments.only],
        )
    finally:
        progress.close()
    pictures = sum(len(record.references) for record in records)
    print(f"{len(records)} clips with {pictures} references: {arguments.out / 'manifest.jsonl'}")
    print(f"report: {arguments.out / 'report.html'}")
    return 0


def _engine(name: str) -> Engine:
    if name == "local":
        return engine.run
    from .ray_engine import run  # pyright: ignore[reportMissingImports]

    return run


if __name__ == "__main__":
    sys.exit(main())
