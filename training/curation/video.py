"""Frames of a video file by their times."""

from collections.abc import Sequence
from pathlib import Path

from kaleido_core.errors import DataError

from .models.kinds import Pixels
from .packages import load


def sample(
    path: Path, fps: float, start: float = 0.0, end: float | None = None, height: int | None = None
) -> tuple[list[float], list[Pixels]]:
    """Times and frames at ``fps`` from ``start`` to ``end`` seconds; smaller when ``height`` is given."""
    av = load("av", "av")
    times: list[float] = []
    pictures: list[Pixels] = []
    due = start
    try:
        with av.open(str(path), metadata_errors="ignore") as container:
            stream = container.streams.video[0]
            if start > 1:
                container.seek(int((start - 1) * 1_000_000))
            for frame in container.decode(stream):
                time = float(frame.pts * stream.time_base)
                if end is not None and time >= end:
                    break
                if time + 1e-3 < due:
                    continue
                due += 1 / fps
                width = round(frame.width * height / frame.height / 2) * 2 if height else None
                picture = frame.reformat(width=width, height=height) if height else frame
                times.append(time)
                pictures.append(picture.to_ndarray(format="rgb24"))
    except (av.FFmpegError, IndexError, OSError) as error:
        raise DataError(f"{path} cannot be read as a video ({error}). Convert it, or leave it out.") from error
    return times, pictures


def read_pictures(path: Path, times: Sequence[float]) -> list[Pixels]:
    """The frame nearest to each time."""
    have, pictures = sample(path, 1000.0)
    return [pictures[min(range(len(have)), key=lambda n: abs(have[n] - time))] for time in times]
