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
    """Gone, if it was ours or never there. The mark goes last: what a kill leaves of it is still ours, or empty."""
    if not folder.exists():
        return
    entries = [] if folder.is_symlink() else list(folder.iterdir())
    if folder.is_symlink() or (entries and folder / MARK not in entries):
        raise DataError(
            f"{folder} was not made by curation, which would empty it. Move it away, or name another output folder."
        )
    for entry in entries:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != MARK:
            entry.unlink()
    shutil.rmtree(folder)
