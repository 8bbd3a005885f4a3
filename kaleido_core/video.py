"""Frames to an mp4 that remembers how it was made, and back; contact sheets."""

import json
import math
import os
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .errors import DataError, ShapeError

CELL_HEIGHT = 200  # pixels of a picture on a contact sheet
SHEET_WIDTH = 1480
GAP = 14
LABEL_HEIGHT = 20
INK, GREY, PAPER = (25, 25, 25), (190, 190, 190), (255, 255, 255)
# Pillow's own font knows Latin letters only; these are what Linux, Windows and macOS ship for the rest.
WIDE_FONTS = ("NotoSansCJK-Regular.ttc", "wqy-zenhei.ttc", "msyh.ttc", "PingFang.ttc", "Arial Unicode.ttf")

# sRGB pictures become tagged BT.709: an untagged file is guessed differently by each player.
COLOURS = ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"]
H264 = ["-crf", "17", "-preset", "medium", "-vf", "scale=out_color_matrix=bt709:out_range=tv:flags=accurate_rnd"]


def write_video(frames: np.ndarray, path: str | Path, fps: float = 16, metadata: dict[str, Any] | None = None) -> None:
    """Write ``[F H W 3]`` uint8 as an H.264 mp4 that plays everywhere; ``metadata`` goes along as JSON.

    The file appears under ``path`` only when it is complete.
    """
    path = Path(path).resolve()  # ffmpeg takes what stands before a colon for a protocol
    _check_frames(frames, fps)
    if not path.parent.is_dir():
        raise DataError(f"{path.parent} is not a folder; the clip needs one to be written to. Make it first.")
    with tempfile.TemporaryDirectory(prefix=".kaleido-", dir=path.parent) as folder:
        silent, tags, done = (Path(folder, name) for name in ("frames.mp4", "tags.txt", "done.mp4"))
        _encode(frames, silent, fps)
        tags.write_text(_to_ffmetadata(metadata), encoding="utf-8")
        # A second, copying pass: metadata of any size fits into a file, but not onto every system's command line.
        _ffmpeg(
            ["-i", str(silent), "-f", "ffmetadata", "-i", str(tags), "-map", "0:v", "-map_metadata", "1"]
            + ["-codec", "copy", "-movflags", "+faststart", str(done)],
            f"{path.name} could not be encoded; H.264 through ffmpeg is needed. Look at ffmpeg's words",
        )
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


def write_contact_sheet(
    path: str | Path,
    references: Sequence[np.ndarray],
    frames: np.ndarray,
    prompt: str = "",
    fps: float = 16,
    samples: int = 8,
) -> None:
    """One picture that tells the clip: the references ``[H W 3]`` on top, ``samples`` frames below, the prompt."""
    path = Path(path)
    indices = np.linspace(0, len(frames) - 1, min(samples, len(frames))).round().astype(int)
    reference_cells = [(f"reference {number}", image) for number, image in enumerate(references, start=1)]
    frame_cells = [(f"frame {index}  {index / fps:.2f} s", frames[index]) for index in indices]
    rows = _rows(reference_cells) + _rows(frame_cells)
    width = max(_row_width(row) for row in rows) + 2 * GAP
    font = _font_for(prompt, 18)
    if font is None:
        prompt, font = "The prompt is in the JSON file beside this picture.", ImageFont.load_default(18)
    caption = _wrap(prompt, font, width - 2 * GAP)

    line_height = 26
    height = GAP + len(rows) * (LABEL_HEIGHT + CELL_HEIGHT + GAP) + len(caption) * line_height + GAP * bool(caption)
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    top = GAP
    for row in rows:
        _draw_row(sheet, draw, row, top)
        top += LABEL_HEIGHT + CELL_HEIGHT + GAP
    for line in caption:
        draw.text((GAP, top), line, INK, font)
        top += line_height
    with tempfile.TemporaryDirectory(prefix=".kaleido-", dir=path.parent) as folder:
        sheet.save(Path(folder, "sheet.png"))
        os.replace(Path(folder, "sheet.png"), path)


def _check_frames(frames: np.ndarray, fps: float) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
        raise ShapeError(
            f"frames are {frames.dtype} {list(frames.shape)}; a clip is uint8 [F H W 3], F >= 1. Convert them first."
        )
    height, width = frames.shape[1:3]
    if height % 2 or width % 2:
        raise ShapeError(
            f"frames are {width}x{height}; H.264 needs an even width and height. "
            f"Crop to {width - width % 2}x{height - height % 2}, or pad."
        )
    if not 0 < fps < math.inf:
        raise ShapeError(f"{fps} frames per second; a positive number is needed. The model's own is 16.")


def _encode(frames: np.ndarray, path: Path, fps: float) -> None:
    height, width = frames.shape[1:3]
    writer = imageio_ffmpeg.write_frames(
        path,
        (width, height),
        fps=fps,  # pyright: ignore[reportArgumentType] it takes fractions too
        codec="libx264",
        quality=None,  # pyright: ignore[reportArgumentType] crf below instead
        macro_block_size=1,
        ffmpeg_log_level="error",
        output_params=[*H264, *COLOURS],
    )
    writer.send(None)
    try:
        for frame in frames:
            writer.send(np.ascontiguousarray(frame))
    except OSError as error:
        raise DataError(f"ffmpeg stopped while encoding; it needs libx264 and free disk space. {error}") from error
    finally:
        writer.close()


def _ffmpeg(arguments: list[str], failure: str) -> bytes:
    """Run ffmpeg; what it wrote to its standard output."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", *arguments]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        words = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise DataError(f"{failure}: {words[-1] if words else 'none'}.")
    return done.stdout


def _to_ffmetadata(metadata: dict[str, Any] | None) -> str:
    if metadata is None:
        return ";FFMETADATA1\n"
    escaped = re.sub(r"([=;#\\])", r"\\\1", json.dumps(metadata))  # ASCII and one line, by json's own rules
    return f";FFMETADATA1\ncomment={escaped}\n"


def _existing(path: str | Path) -> Path:
    if not Path(path).is_file():
        raise DataError(f"{path} does not exist; the path of a video file is needed. Check the spelling.")
    return Path(path).resolve()


Cell = tuple[str, np.ndarray]  # label, picture


def _cell_width(image: np.ndarray) -> int:
    height, width = image.shape[:2]
    return max(1, round(width * CELL_HEIGHT / height))


def _row_width(row: Sequence[Cell]) -> int:
    return sum(_cell_width(image) for _, image in row) + GAP * (len(row) - 1)


def _rows(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells in rows of equal length, none wider than the sheet."""
    if not cells:
        return []
    widest = max(_cell_width(image) for _, image in cells)
    fitting = max(1, (SHEET_WIDTH - GAP) // (widest + GAP))
    columns = math.ceil(len(cells) / math.ceil(len(cells) / fitting))
    return [list(cells[start : start + columns]) for start in range(0, len(cells), columns)]


def _draw_row(sheet: Image.Image, draw: ImageDraw.ImageDraw, row: Sequence[Cell], top: int) -> None:
    left = GAP
    font = ImageFont.load_default(14)
    for label, image in row:
        width = _cell_width(image)
        picture = Image.fromarray(np.ascontiguousarray(image)).resize((width, CELL_HEIGHT), Image.Resampling.LANCZOS)
        draw.text((left, top), label, INK, font)
        sheet.paste(picture, (left, top + LABEL_HEIGHT))
        # A frame around it: references are letterboxed on white and would melt into the paper.
        edge = (left - 1, top + LABEL_HEIGHT - 1, left + width, top + LABEL_HEIGHT + CELL_HEIGHT)
        draw.rectangle(edge, outline=GREY)
        left += width + GAP


Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def _font_for(text: str, size: int) -> Font | None:
    """A font that can draw ``text``, or None."""
    if all(ord(letter) < 0x2100 for letter in text):
        return ImageFont.load_default(size)
    for name in WIDE_FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return None


def _wrap(text: str, font: Font, width: int) -> list[str]:
    """Lines no wider than ``width`` pixels; broken between words, or anywhere in scripts without spaces."""
    lines = [""]
    for word in re.findall(r"[^\s\u2e80-\uffff]+\s*|[\u2e80-\uffff]", " ".join(text.split())):
        if lines[-1] and font.getlength(lines[-1] + word.rstrip()) > width:
            lines.append("")
        lines[-1] += word
    return [line.rstrip() for line in lines if line]
