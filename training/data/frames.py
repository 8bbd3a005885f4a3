"""Frames of a clip for training: which ones, and how they fill the size that is trained at (SPEC 9)."""

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal

import imageio_ffmpeg
import numpy as np
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
    (SPEC 12.29). Raises ``DataError`` where the official code fails: below ``rate``, or barely long enough.
    """
    if length / fps * rate > count:
        end = int(skip + count / rate * fps)
        step = (end - skip) // count
        if not step or end > length:
            raise DataError(f"{length} frames at {fps:g} a second defeat the official rule. Choose frames by time.")
    elif length > count:
        end = length - skip
        step = max((end - skip) // count, 1)
    else:
        end, step = skip + whole_length(length - 2 * skip), 1
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
        return tuple(VideoSize(frames, height, width) for width, height, frames in parts)
    except ValueError as error:
        raise ConfigError(f"sizes {text!r}; WIDTHxHEIGHTxFRAMES by commas is needed, such as 896x512x81.") from error


def best_size(width: int, height: int, sizes: Sequence[VideoSize]) -> VideoSize:
    """The one whose shape is nearest to ``width`` x ``height``."""
    return min(sizes, key=lambda size: abs(math.log(size.width / size.height * height / width)))


def read_frames(
    video: str, t0: float, t1: float | None, sizes: Sequence[VideoSize], rule: FrameRule = "by_time"
) -> Tensor:
    """Uint8 ``[F 3 H W]`` of a video from ``t0`` to ``t1`` seconds, in the best of ``sizes``; F = 4k + 1.

    By time, a frame every sixteenth of a second is the one nearest to it, whatever the video's rate and however uneven;
    a short clip gives fewer. The official rule always gives as many as the size has. Raises ``DataError``.
    """
    if not Path(video).is_file():
        raise DataError(f"{video} is missing. Correct the path, or remove the record.")
    window = ["-ss", f"{t0:.6f}"] if t0 else []
    window += ["-t", f"{t1 - t0:.6f}"] if t1 is not None else []
    most = max(size.frames for size in sizes)
    filters, limit = ([], None) if rule == "official" else (["-vf", f"fps={RATE:g}"], most)
    frames = list(islice(_decode(video, window, filters), limit))
    if not frames:
        raise DataError(f"{video} has no frame from {t0:g} s on. Correct t0 and t1, or remove the record.")
    height, width = frames[0].shape[:2]
    size = best_size(width, height, sizes)
    if rule == "official":
        chosen = [frames[index] for index in official_indices(len(frames), _rate(video), size.frames)]
    else:
        chosen = frames[: whole_length(min(len(frames), size.frames))]
    return torch.cat([fill(_picture(frame), size.height, size.width) for frame in chosen])


def _decode(video: str, window: Sequence[str], filters: Sequence[str]) -> Iterator[np.ndarray]:
    reader = imageio_ffmpeg.read_frames(video, input_params=list(window), output_params=list(filters))
    try:
        width, height = next(reader)["size"]
        for frame in reader:
            yield np.frombuffer(frame, np.uint8).reshape(height, width, 3)
    except (OSError, RuntimeError, KeyError, StopIteration, ValueError) as error:
        raise DataError(f"{video} cannot be read as a video. Check it, or remove the record.") from error
    finally:
        reader.close()


def _rate(video: str) -> float:
    reader = imageio_ffmpeg.read_frames(video)
    try:
        return float(next(reader)["fps"])
    finally:
        reader.close()


def _picture(frame: np.ndarray) -> Tensor:
    return torch.from_numpy(frame.copy()).permute(2, 0, 1)[None]
