"""A whole run that is killed without warning at any point, and given again, ends with the files of a calm one."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("cv2", reason="opencv-python-headless is not installed")
pytest.importorskip("scenedetect", reason="scenedetect-headless is not installed")

from .films import write
from .test_pipeline import FPS, files, film
from .world import Sprite

MARKERS = 30  # of a whole run, about: two videos, four clips, ten stages


def start(raw: Path, out: Path, root: Path) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "tests.training.curation.killed_pipeline", str(raw), str(out)]
    return subprocess.Popen(command, cwd=root)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_run_that_is_killed_at_three_random_points_ends_with_the_files_of_a_calm_one(tmp_path: Path, root: Path):
    raw, calm, killed = tmp_path / "raw", tmp_path / "calm", tmp_path / "killed"
    raw.mkdir()
    red, blue = Sprite((210, 40, 40)), Sprite((40, 60, 220))
    write(raw / "a.mp4", [*film(1, 4.0, red), *film(2, 4.0, blue)], FPS)
    write(raw / "b.mp4", [*film(3, 4.0, blue), *film(4, 4.0, red)], FPS)
    assert start(raw, calm, root).wait() == 0
    chance = random.Random(6)
    for part in (0.1, 0.4, 0.8):
        point = round((part + chance.uniform(-0.08, 0.08)) * MARKERS)
        process = start(raw, killed, root)
        while process.poll() is None and len(list(killed.glob("state/*/*.json"))) < point:
            time.sleep(0.01)
        assert process.returncode is None, "it ended before it was killed"
        process.send_signal(signal.SIGKILL)  # it alone: its ffmpeg may still be writing when the next run begins
        process.wait()
        assert not (killed / "manifest.jsonl").exists()
    assert start(raw, killed, root).wait() == 0
    assert len(files(calm)) > 40
    assert files(killed) == files(calm)
    assert not list(killed.rglob("*.part*")) and not list(killed.rglob("*.tries"))
