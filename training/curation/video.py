"""Video files by ffmpeg, in a child process that may not take all time or memory: probe, frames by time, cutting."""

import contextlib
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import imageio_ffmpeg
import numpy as np

from kaleido_core.errors import DataError

from .models.kinds import Pixels

MEMORY = 4 * 2**30  # bytes that a decoder may ask for
PATIENCE = 120.0  # seconds that any call may take, and
PATIENCE_A_SECOND = 8.0  # more for each second of video
# Each begins where ffmpeg begins a line: a film's title may say anything.
_OUTPUT = re.compile(
    r"^Output #0,.*?^  Stream #0:0\S*: Video: wrapped_avframe.*?, (\d+)x(\d+)", re.DOTALL | re.MULTILINE
)
_RATE = re.compile(r"^  Stream #0:\d.*?Video: .*?, ([\d.]+)(k?) (?:fps|tbr)", re.MULTILINE)
_COUNT = re.compile(r"^frame=\s*(\d+) .*?time=(\d+):(\d\d):(\d\d(?:\.\d+)?)", re.MULTILINE)
_UPRIGHT = "scale=round(iw*sar):ih,setsar=1"  # pixels of a DVD are no squares; nothing is done where they are
CROP = tuple[int, int, int, int]  # left, top, width, height


@dataclass(frozen=True)
class File:
    """A video, upright and of square pixels. ``fps`` is the mean; 0 where ffmpeg does not know.

    ``frames`` were really decoded, and last ``seconds``: sound may go on, and some files tell no length.
    """

    width: int
    height: int
    fps: float
    seconds: float
    frames: int


def probe(path: Path, patience: float = PATIENCE) -> File:
    """Decode all of it once. ``DataError`` for what is no video, is damaged, or takes longer than ``patience``."""
    said = _run(["-xerror", "-i", str(path), "-map", "0:v:0", "-vf", _UPRIGHT, "-f", "null", "-"], path, patience)
    size, counts = _OUTPUT.search(said), _COUNT.findall(said)
    if size is None or not counts:
        raise DataError(f"{path} shows no picture. Convert it, or leave it out.")
    frames, hours, minutes, seconds = counts[-1]
    rate = _RATE.search(said)
    fps = float(rate[1]) * (1000 if rate[2] else 1) if rate else 0.0
    length = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    return File(int(size[1]), int(size[2]), fps, length, int(frames))


def stream(
    path: Path, fps: float, size: tuple[int, int], start: float = 0.0, end: float | None = None
) -> Iterator[Pixels]:
    """Frames of ``size`` (width, height) at ``fps``, the ones that are shown then, whatever the file's own rate."""
    window = _window(start, end)
    filters = f"fps={fps:.6f}:round=up,scale={size[0]}:{size[1]}:flags=area"
    command = _command([*window, "-i", str(path), "-map", "0:v:0", "-vf", filters, "-f", "rawvideo"])
    command += ["-pix_fmt", "rgb24", "-"]
    patience = PATIENCE + PATIENCE_A_SECOND * ((end or 3600.0) - start)
    length = 3 * size[0] * size[1]
    with tempfile.TemporaryFile() as said, _child(command, subprocess.PIPE, said, patience) as process:
        assert process.stdout
        while len(data := process.stdout.read(length)) == length:
            yield np.frombuffer(data, np.uint8).reshape(size[1], size[0], 3)
        if process.wait():
            raise DataError(f"{path} is damaged ({_last(said)}). Convert it, or leave it out.")


def sample(
    path: Path, fps: float, start: float = 0.0, end: float | None = None, height: int | None = None
) -> tuple[list[float], list[Pixels]]:
    """Times in the file and frames at ``fps`` from ``start`` to ``end`` seconds; ``height`` rows when it is given."""
    width, rows = _size(path)
    if height is not None:
        width, rows = max(2, round(width * height / rows / 2) * 2), height
    pictures = list(stream(path, fps, (width, rows), start, end))
    return [start + number / fps for number in range(len(pictures))], pictures


def read_pictures(path: Path, times: Sequence[float]) -> list[Pixels]:
    """The frames shown at ``times``, each read by itself; the last one for a time behind the end."""
    size = _size(path)
    return [_one(path, time, size) for time in times]


def cut(path: Path, start: float, end: float, out: Path, crop: CROP | None = None) -> None:
    """``start`` to ``end`` seconds as an mp4 of its own without sound; it appears when it is whole."""
    out.parent.mkdir(parents=True, exist_ok=True)
    for left in out.parent.glob(f"{out.stem}.*.part.mp4"):  # of a run that was killed
        left.unlink(missing_ok=True)
    # Another name each time: that run's ffmpeg may still be writing.
    unfinished = out.with_name(f"{out.stem}.{os.getpid()}.part.mp4")
    left, top, width, height = crop or (0, 0, 0, 0)
    filters = [_UPRIGHT, *([f"crop={width}:{height}:{left}:{top}"] if crop else [])]
    filters += ["crop=trunc(iw/2)*2:trunc(ih/2)*2:0:0", "scale=out_color_matrix=bt709"]
    colours = [f"-color{kind}" for kind in ("space", "_primaries", "_trc")]
    arguments = [*_window(start, end), "-i", str(path), "-map", "0:v:0", "-vf", ",".join(filters)]
    arguments += ["-c:v", "libx264", "-crf", "16", "-preset", "veryfast", "-pix_fmt", "yuv420p", "-an"]
    arguments += [word for colour in colours for word in (colour, "bt709")]
    arguments += ["-map_metadata", "-1", "-fps_mode", "vfr", "-threads", "1", "-y", str(unfinished)]
    _run(arguments, path, PATIENCE + PATIENCE_A_SECOND * (end - start))
    os.replace(unfinished, out)


def _one(path: Path, time: float, size: tuple[int, int]) -> Pixels:
    for window in (_window(time, None), ["-sseof", "-0.2"], ["-sseof", "-2"]):
        arguments = [*window, "-i", str(path), "-map", "0:v:0", "-vf", _UPRIGHT, "-frames:v", "1"]
        command = _command([*arguments, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"])
        with tempfile.TemporaryFile() as said, _child(command, subprocess.PIPE, said, PATIENCE) as process:
            assert process.stdout
            data = process.stdout.read()
        if len(data) == 3 * size[0] * size[1]:
            return np.frombuffer(data, np.uint8).reshape(size[1], size[0], 3)
    raise DataError(f"{path} has no frame at {time:g} s. Convert it, or leave it out.")


def _size(path: Path) -> tuple[int, int]:
    """Width and height, upright, from the first frame."""
    arguments = ["-i", str(path), "-map", "0:v:0", "-vf", _UPRIGHT, "-frames:v", "1", "-f", "null", "-"]
    said = _run(arguments, path, PATIENCE)
    found = _OUTPUT.search(said)
    if found is None:
        raise DataError(f"{path} shows no picture. Convert it, or leave it out.")
    return int(found[1]), int(found[2])


def _window(start: float, end: float | None) -> list[str]:
    return (["-ss", f"{start:.6f}"] if start else []) + (["-t", f"{end - start:.6f}"] if end is not None else [])


def _command(arguments: Sequence[str]) -> list[str]:
    # One thread: the pipeline has a process for each core already. Only local files: a playlist names no address.
    limits = ["-hide_banner", "-nostdin", "-threads", "1", "-protocol_whitelist", "file,pipe"]
    return [imageio_ffmpeg.get_ffmpeg_exe(), *limits, *arguments]


def _run(arguments: Sequence[str], path: Path, patience: float) -> str:
    """What ffmpeg says, once it ended well."""
    with tempfile.TemporaryFile() as said:
        with _child(_command(arguments), subprocess.DEVNULL, said, patience) as process:
            status = process.wait()
        said.seek(0)
        text = said.read().decode(errors="replace").replace("\r", "\n")  # it writes its count over itself
        if status:
            why = f"took more than {patience:.0f} s" if status == -9 else _last(said)
            raise DataError(f"{path} cannot be read as a video ({why}). Convert it, or leave it out.")
    return text


def _last(said: IO[bytes]) -> str:
    said.seek(0)
    lines = [line for line in said.read().decode(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "ffmpeg gave no reason"


@contextlib.contextmanager
def _child(
    command: Sequence[str], output: int, said: IO[bytes], patience: float
) -> Iterator["subprocess.Popen[bytes]"]:
    """Killed when its time is over, or when nobody waits for it any longer."""
    # macOS knows the limit but refuses to set it; Windows has none.
    limit = partial(_limit_memory, MEMORY) if sys.platform == "linux" else None
    process = subprocess.Popen(command, stdout=output, stderr=said, preexec_fn=limit)
    timer = threading.Timer(patience, process.kill)
    timer.start()
    try:
        yield process
    finally:
        timer.cancel()
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def _limit_memory(most: int) -> None:
    import resource  # Windows has none, and this file is read there

    resource.setrlimit(resource.RLIMIT_AS, (most, most))
