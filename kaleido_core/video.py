"""Frames to a video file that remembers how it was made, and back."""

import json
import math
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
from PIL import Image

from .errors import ConfigError, DataError, ShapeError

QUALITY = 80  # of 1..100

# sRGB pictures become tagged BT.709: an untagged file is guessed differently by each player.
COLOURS = [
    *("-vf", "scale=out_color_matrix=bt709:out_range=tv:flags=accurate_rnd"),
    *("-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"),
]
# GIF has 256 colours; the best ones are counted first.
PALETTE = ["-filter_complex", "split[a][b];[a]palettegen[p];[b][p]paletteuse"]


@dataclass(frozen=True)
class VideoFormat:
    """A kind of file. ``crf`` is ffmpeg's constant rate factor at quality 0 and 100, where the codec has one."""

    suffix: str
    codec: str
    options: tuple[str, ...] = ()
    crf: tuple[int, int] | None = None


FORMATS = {
    "mp4 h264": VideoFormat(".mp4", "libx264", ("-preset", "medium", *COLOURS), (41, 11)),
    "mp4 h265": VideoFormat(".mp4", "libx265", ("-preset", "medium", "-tag:v", "hvc1", *COLOURS), (45, 15)),
    "webm vp9": VideoFormat(".webm", "libvpx-vp9", ("-b:v", "0", "-row-mt", "1", *COLOURS), (60, 20)),
    "gif": VideoFormat(".gif", "gif", tuple(PALETTE)),
    "webp": VideoFormat(".webp", "webp"),
}
FRAMES_OF_WEBP = "webp"  # Pillow writes it: ffmpeg would drop its metadata


def write_video(frames: np.ndarray, path: str | Path, fps: float = 16, metadata: dict[str, Any] | None = None) -> None:
    """Write ``[F H W 3]`` uint8 as an H.264 mp4 that plays everywhere; ``metadata`` goes along as JSON.

    The file appears under ``path`` only when it is complete.
    """
    encode_video(frames, path, fps, {} if metadata is None else {"comment": json.dumps(metadata)})


def encode_video(
    frames: np.ndarray,
    path: str | Path,
    fps: float,
    tags: Mapping[str, str],
    form: str = "mp4 h264",
    quality: int = QUALITY,
) -> None:
    """Write ``[F H W 3]`` uint8 in one of ``FORMATS``, ``quality`` 1..100, with ``tags``; complete or not at all.

    The tags are readable by any player's inspector; ComfyUI's page looks for ``prompt`` and ``workflow``. A GIF carries
    none. Raises ``ShapeError`` for frames the format cannot hold, ``ConfigError`` for an unknown format.
    """
    if form not in FORMATS or not 1 <= quality <= 100:
        raise ConfigError(f"format {form!r}, quality {quality}: known are {', '.join(FORMATS)}; quality is 1..100.")
    path = Path(path).resolve()  # ffmpeg takes what stands before a colon for a protocol
    _check_frames(frames, fps, even=FORMATS[form].crf is not None)
    if not path.parent.is_dir():
        raise DataError(f"{path.parent} is not a folder; the clip needs one to be written to. Make it first.")
    with tempfile.TemporaryDirectory(prefix=".kaleido-", dir=path.parent) as folder:
        done = Path(folder, f"done{FORMATS[form].suffix}")
        if form == FRAMES_OF_WEBP:
            _write_webp(frames, done, fps, tags, quality)
        else:
            silent = Path(folder, f"frames{FORMATS[form].suffix}")
            _encode(frames, silent, fps, FORMATS[form], quality)
            _attach_tags(silent, done, tags)
        os.replace(done, path)


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The ``metadata`` that ``write_video`` put into the file."""
    path = _existing(path)
    listing = _ffmpeg(
        ["-i", str(path), "-f", "ffmetadata", "-"],
        f"{path.name} cannot be read as a video; an mp4 written by Kaleido is needed. Check the path",
    )
    match = re.search(r"^comment=((?:[^\\\n]|\\.)*)$", listing.decode("utf-8", "replace"), re.MULTILINE | re.DOTALL)
    try:
        metadata = json.loads(re.sub(r"\\(.)", r"\1", match[1], flags=re.DOTALL)) if match else None
    except ValueError:
        metadata = None
    if not isinstance(metadata, dict):
        raise DataError(
            f"{path.name} says nothing of how it was made; a clip written by Kaleido carries that. "
            "Use the original file, not a re-encoded copy."
        )
    return metadata


def read_video(path: str | Path) -> np.ndarray:
    """All frames of a video as ``[F H W 3]`` uint8."""
    path = _existing(path)
    reader = imageio_ffmpeg.read_frames(path)
    try:
        width, height = next(reader)["size"]
        frames = [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader]
    except (OSError, RuntimeError, KeyError, StopIteration) as error:
        raise DataError(f"{path.name} cannot be read as a video; an mp4 or the like is needed. Check it.") from error
    return np.stack(frames)


def _check_frames(frames: np.ndarray, fps: float, even: bool) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
        raise ShapeError(
            f"frames are {frames.dtype} {list(frames.shape)}; a clip is uint8 [F H W 3], F >= 1. Convert them first."
        )
    height, width = frames.shape[1:3]
    if even and (height % 2 or width % 2):
        raise ShapeError(
            f"frames are {width}x{height}; this video format needs an even width and height. "
            f"Crop to {width - width % 2}x{height - height % 2}, or pad."
        )
    if not 0 < fps < math.inf:
        raise ShapeError(f"{fps} frames per second; a positive number is needed. The model's own is 16.")


def _encode(frames: np.ndarray, path: Path, fps: float, form: VideoFormat, quality: int) -> None:
    height, width = frames.shape[1:3]
    rate: list[str] = []
    if form.crf:
        worst, best = form.crf
        rate = ["-crf", str(round(worst + (best - worst) * quality / 100))]
    writer = imageio_ffmpeg.write_frames(
        path,
        (width, height),
        fps=fps,  # pyright: ignore[reportArgumentType] it takes fractions too
        codec=form.codec,
        pix_fmt_out="yuv420p" if form.crf else "pal8",
        quality=None,  # pyright: ignore[reportArgumentType] crf instead
        macro_block_size=1,
        ffmpeg_log_level="error",
        output_params=[*rate, *form.options],
    )
    writer.send(None)
    try:
        for frame in frames:
            writer.send(np.ascontiguousarray(frame))
    except OSError as error:
        raise DataError(f"ffmpeg stopped while encoding; it needs {form.codec} and free disk space. {error}") from error
    finally:
        writer.close()


def _attach_tags(silent: Path, done: Path, tags: Mapping[str, str]) -> None:
    # A second, copying pass: metadata of any size fits into a file, but not onto every system's command line.
    file = silent.with_name("tags.txt")
    file.write_text(_to_ffmetadata(tags), encoding="utf-8")
    movie = ["-movflags", "+faststart+use_metadata_tags"] if done.suffix == ".mp4" else []
    _ffmpeg(
        ["-i", str(silent), "-f", "ffmetadata", "-i", str(file), "-map", "0:v", "-map_metadata", "1"]
        + ["-codec", "copy", *movie, str(done)],
        f"{done.name} could not be written; ffmpeg and free disk space are needed. Look at ffmpeg's words",
    )


def _write_webp(frames: np.ndarray, path: Path, fps: float, tags: Mapping[str, str], quality: int) -> None:
    pictures = [Image.fromarray(frame) for frame in frames]
    exif = Image.Exif()
    # ComfyUI's page reads "name:text" from any text field; these are free ones, from Model downwards.
    for field, (name, text) in zip(range(0x0110, 0, -1), tags.items(), strict=False):
        exif[field] = f"{name}:{text}".encode()
    pictures[0].save(
        path, save_all=True, append_images=pictures[1:], duration=round(1000 / fps), loop=0, quality=quality, exif=exif
    )


def _ffmpeg(arguments: list[str], failure: str) -> bytes:
    """Run ffmpeg; what it wrote to its standard output."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", *arguments]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        words = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise DataError(f"{failure}: {words[-1] if words else 'none'}.")
    return done.stdout


def _to_ffmetadata(tags: Mapping[str, str]) -> str:
    lines = [f"{name}=" + re.sub(r"([=;#\\\n])", r"\\\1", text) for name, text in tags.items()]
    return "\n".join([";FFMETADATA1", *lines, ""])


def _existing(path: str | Path) -> Path:
    if not Path(path).is_file():
        raise DataError(f"{path} does not exist; the path of a video file is needed. Check the spelling.")
    return Path(path).resolve()
