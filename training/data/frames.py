"""Frames of a clip for training: which ones, and how they fill the size that is trained at (SPEC 9)."""

import math
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

import imageio_ffmpeg
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from kaleido_core.errors import ConfigError, DataError
from kaleido_core.shapes import TEMPORAL_STRIDE, VideoSize

RATE = 16.0  # frames a second, the model's own
OFFICIAL_SKIP = 3  # frames at the beginning, and as many at the end, that the official loader leaves out
FrameRule = Literal["by_time", "official"]


def whole_length(frames: int) -> int:
    """The longest 4k + 1 that is no more than ``frames``; at least 1."""
    return max(frames - 1, 0) // TEMPORAL_STRIDE * TEMPORAL_STRIDE + 1


def official_indices(length: int, fps: float, count: int, rate: float = RATE, skip: int = OFFICIAL_SKIP) -> list[int]:
    """The ``count`` frames that the official loader takes of a video, the last one repeated where it ends early.

    Its step is a whole number, so that 24 and 30 frames a second are taken as they are, slower than they were
    (SPEC 12.29). Raises ``DataError`` where the official code fails: below ``rate``, barely long enough, or under four.
    """
    if length * rate > count * fps:
        end = int(skip + count / rate * fps)
        step = (end - skip) // count
    elif length > count:
        end = length - skip
        step = max((end - skip) // count, 1)
    else:
        end, step = skip + whole_length(length - 2 * skip), 1
    if not step or end > length:
        raise DataError(f"{length} frames at {fps:g} a second defeat the official rule. Choose frames by time.")
    taken = list(range(skip, end, step))[:count]
    return taken + taken[-1:] * (count - len(taken))


def fill(frames: Tensor, height: int, width: int) -> Tensor:
    """Scale uint8 ``[T 3 h w]`` to cover ``height`` x ``width`` and cut out the middle; uint8 ``[T 3 H W]``."""
    scale = max(height / frames.shape[-2], width / frames.shape[-1])
    # Floor, but for what rounding of the quotient took away: the side that fits exactly must not lose a pixel.
    size = [int(side * scale + 1e-6) for side in frames.shape[-2:]]
    if size != list(frames.shape[-2:]):
        scaled = interpolate(frames.float(), size, mode="bicubic", antialias=True)
        frames = scaled.round().clamp(0, 255).to(torch.uint8)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return frames[..., top : top + height, left : left + width]


def read_sizes(text: str) -> tuple[VideoSize, ...]:
    """From "896x512x81,..." (width, height, frames). Raises ``ConfigError``."""
    try:
        parts = [[int(number) for number in size.split("x")] for size in text.split(",")]
        if any(len(part) != 3 for part in parts):
            raise ValueError
    except ValueError as error:
        raise ConfigError(f"sizes {text!r}; WIDTHxHEIGHTxFRAMES by commas is needed, such as 896x512x81.") from error
    return tuple(VideoSize(frames, height, width) for width, height, frames in parts)


def best_size(width: int, height: int, sizes: Sequence[VideoSize]) -> VideoSize:
    """The one whose shape is nearest to ``width`` x ``height``."""
    return min(sizes, key=lambda size: abs(math.log(size.width / size.height * height / width)))


def read_frames(
    video: str, t0: float, t1: float | None, sizes: Sequence[VideoSize], rule: FrameRule = "by_time"
) -> Tensor:
    """Uint8 ``[F 3 H W]`` of a video from ``t0`` to ``t1`` seconds, in the best of ``sizes``; F = 4k + 1.

    By time, each is the frame nearest to its sixteenth of a second, whatever the video's rate (where that is uneven,
    within half a usual frame); a short clip gives fewer. The official rule always gives as many as the size has.
    Raises ``DataError``, also for damage that ffmpeg would patch.
    """
    file = _probe(video)
    size = best_size(file.width, file.height, sizes)
    window = ["-ss", f"{t0:.6f}"] if t0 else []
    window += ["-t", f"{t1 - t0:.6f}"] if t1 is not None else []
    choose = _official_frames if rule == "official" else _timed_frames
    chosen = [fill(frame, size.height, size.width) for frame in choose(file, window, size.frames)]
    if not chosen:
        raise DataError(f"{video} has no frame from {t0:g} s on. Correct t0 and t1, or remove the record.")
    return torch.cat(chosen[: whole_length(len(chosen))])


@dataclass(frozen=True)
class _File:
    """A video, as ffmpeg shows it: upright. ``fps`` 0: it does not know."""

    path: str
    width: int
    height: int
    fps: float


def _timed_frames(file: _File, window: Sequence[str], count: int) -> Iterator[Tensor]:
    # ``round=up`` gives the last frame that has begun; had each begun half its time earlier, that is the nearest one.
    earlier = 0.5 / file.fps if file.fps else 0.0
    # AVTB, microseconds: an AVI's own clock ticks once a frame, and knows no half.
    filters = f"settb=AVTB,setpts=PTS-{earlier:.6f}/TB,fps={RATE:g}:round=up"
    return islice(_decode(file, window, ["-vf", filters]), count)


def _official_frames(file: _File, window: Sequence[str], count: int) -> Iterator[Tensor]:
    if not file.fps:
        raise DataError(f"{file.path} does not tell its rate, which the official rule needs. Choose frames by time.")
    enough = OFFICIAL_SKIP + int(count / RATE * file.fps) + 2  # the rule takes nothing behind
    length = sum(1 for _ in islice(_decode(file, window), enough))
    chosen = official_indices(length, file.fps, count) if length else []
    for index, frame in enumerate(islice(_decode(file, window), max(chosen, default=-1) + 1)):
        yield from [frame] * chosen.count(index)


def _probe(video: str) -> _File:
    if not Path(video).is_file():
        raise DataError(f"{video} is missing. Correct the path, or remove the record.")
    reader = imageio_ffmpeg.read_frames(video, output_params=["-frames:v", "1"])
    try:
        told = next(reader)
        width, height = told["size"]
        return _File(video, width, height, float(told["fps"]))
    except (OSError, RuntimeError, LookupError, StopIteration, ValueError) as error:
        raise DataError(f"{video} cannot be read as a video. Check it, or remove the record.") from error
    finally:
        reader.close()


def _decode(file: _File, window: Sequence[str], filters: Sequence[str] = ()) -> Iterator[Tensor]:
    """Frame by frame, uint8 ``[1 3 h w]``; ``DataError`` at the first that is damaged."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-xerror", *window, "-i", file.path]
    command += [*filters, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    frame = 3 * file.height * file.width
    with tempfile.TemporaryFile() as said, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said) as process:
        assert process.stdout
        try:
            while len(data := process.stdout.read(frame)) == frame:
                pixels = torch.frombuffer(bytearray(data), dtype=torch.uint8)
                yield pixels.view(file.height, file.width, 3).permute(2, 0, 1)[None]
            if data or process.wait():
                said.seek(0)
                told = said.readline().decode(errors="replace").strip()
                raise DataError(f"{file.path} is damaged ({told}). Make it anew, or remove the record.")
        finally:
            process.kill()
