"""Small video files of every sort, healthy and damaged, made by ffmpeg."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from training.curation.clip import Clip
from training.curation.models.kinds import Pixels
from training.data.record import Source

QUICK = ("-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p")


def ffmpeg(*arguments: str | Path) -> None:
    """Raises on a fault of ffmpeg; skips where this build of ffmpeg lacks what is asked."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-threads", "1", "-y", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if "Unknown encoder" in done.stderr:
        pytest.skip(f"this ffmpeg cannot make it: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr


def make(path: Path, seconds: float = 1.0, size: str = "96x64", fps: float = 12, extra: Sequence[str] = QUICK) -> Path:
    """A moving test picture."""
    ffmpeg("-f", "lavfi", "-i", f"testsrc=duration={seconds}:size={size}:rate={fps}", *extra, path)
    return path


def write(path: Path, pictures: Sequence[Pixels], fps: float = 8) -> Path:
    """These frames, nearly lossless."""
    height, width = pictures[0].shape[:2]
    raw = path.with_suffix(".raw")
    raw.write_bytes(b"".join(picture.tobytes() for picture in pictures))
    take = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", raw)
    ffmpeg(*take, *QUICK, "-crf", "4", path)
    raw.unlink()
    return path


def noise(seed: int, height: int = 64, width: int = 96, cell: int = 8) -> Pixels:
    """Coloured squares: something to look at that is unlike any other seed's."""
    chance = np.random.default_rng(seed)
    small = chance.integers(0, 256, (height // cell + 1, width // cell + 1, 3))
    return small.repeat(cell, 0).repeat(cell, 1)[:height, :width].astype(np.uint8)


def shots(count: int, frames: int, height: int = 64, width: int = 96) -> list[Pixels]:
    """Still shots of ``frames`` frames each, every one of another place."""
    return [noise(number, height, width) for number in range(count) for _ in range(frames)]


def clip_in(out: Path, video: Path, seconds: float, fps: float = 8, name: str = "a") -> Clip:
    """A clip whose own file is ``video``, below ``out``."""
    return Clip(name, Source(str(video)), 0.0, seconds, 96, 64, fps, round(seconds * fps), str(video.relative_to(out)))
