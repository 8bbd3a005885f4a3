"""Folders that a run empties: ours only, and after a kill at any moment still ours."""

from pathlib import Path

import pytest

from kaleido_core.errors import DataError
from training.curation import own_folder
from training.curation.own_folder import MARK, remove, renew


def filled(folder: Path) -> Path:
    renew(folder)
    for name in ("a.png", "b.png", "z.png"):
        (folder / name).write_text("picture")
    (folder / "within").mkdir()
    (folder / "within" / "c.png").write_text("picture")
    return folder


def test_strangers_files_are_left_alone(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="not made by curation"):
        renew(tmp_path)
    assert (tmp_path / "mine.txt").exists()


@pytest.mark.parametrize("after", range(5))
def test_what_a_kill_leaves_can_be_emptied_again(after: int, tmp_path: Path, monkeypatch):
    folder, unlink, rmtree, count = filled(tmp_path / "ours"), Path.unlink, own_folder.shutil.rmtree, [0]

    def counted(call):
        def run(*given, **named):
            if count[0] == after:
                raise KeyboardInterrupt
            count[0] += 1
            return call(*given, **named)

        return run

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", counted(unlink))
        patched.setattr(own_folder.shutil, "rmtree", counted(rmtree))
        with pytest.raises(KeyboardInterrupt):
            remove(folder)
    assert list(renew(folder).iterdir()) == [folder / MARK]


def test_a_kill_before_the_mark_was_set_is_no_obstacle(tmp_path: Path):
    (tmp_path / "ours").mkdir()
    assert (renew(tmp_path / "ours") / MARK).exists()
