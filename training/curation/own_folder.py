"""Folders that are made anew by every run: only those that we made ourselves are ever removed."""

import shutil
from pathlib import Path

from kaleido_core.errors import DataError

MARK = ".made-by-curation"


def renew(folder: Path) -> Path:
    """Empty and ours. ``DataError`` where someone else's files lie."""
    remove(folder)
    folder.mkdir(parents=True)
    (folder / MARK).touch()
    return folder


def remove(folder: Path) -> None:
    """Gone, if it was ours or never there."""
    if not folder.exists():
        return
    if folder.is_symlink() or not (folder / MARK).is_file():
        raise DataError(
            f"{folder} was not made by curation, which would empty it. Move it away, or name another output folder."
        )
    shutil.rmtree(folder)
