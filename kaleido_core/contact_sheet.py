"""Contact sheets: one picture that tells a clip."""

import contextlib
import math
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

CELL_HEIGHT = 200  # pixels of a picture on a contact sheet
SHEET_WIDTH = 1480
GAP = 14
LABEL_HEIGHT = 20
LINE_HEIGHT = 26
INK, GREY, PAPER = (25, 25, 25), (190, 190, 190), (255, 255, 255)
# Pillow's own font knows English letters only; these are what Linux, Windows and macOS ship for the rest.
FONTS = (
    *("DejaVuSans.ttf", "segoeui.ttf", "Arial.ttf"),
    *("NotoSansCJK-Regular.ttc", "wqy-zenhei.ttc", "msyh.ttc", "PingFang.ttc", "Arial Unicode.ttf"),
)

Cell = tuple[str, np.ndarray]  # label, picture
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def write_contact_sheet(
    path: str | Path,
    references: Sequence[np.ndarray],
    frames: np.ndarray,
    prompt: str = "",
    fps: float = 16,
    samples: int = 8,
) -> None:
    """Save ``draw_contact_sheet`` of a clip ``[F H W 3]`` as a PNG, complete or not at all."""
    path = Path(path)
    indices = np.linspace(0, len(frames) - 1, min(samples, len(frames))).round().astype(int)
    cells = [(f"frame {index}  {index / fps:.2f} s", frames[index]) for index in indices]
    sheet = draw_contact_sheet([reference_cells(references), cells], prompt)
    with tempfile.TemporaryDirectory(prefix=".kaleido-", dir=path.parent) as folder:
        sheet.save(Path(folder, "sheet.png"))
        os.replace(Path(folder, "sheet.png"), path)


def reference_cells(references: Sequence[np.ndarray]) -> list[Cell]:
    """Reference images ``[H W 3]`` uint8, numbered from 1."""
    return [(f"reference {number}", image) for number, image in enumerate(references, start=1)]


def draw_contact_sheet(groups: Sequence[Sequence[Cell]], text: str = "") -> Image.Image:
    """Groups of labelled pictures ``[H W 3]`` uint8, one below the other, and ``text`` underneath."""
    rows = [row for group in groups for row in _rows(group)]
    width = max((_row_width(row) for row in rows), default=CELL_HEIGHT) + 2 * GAP
    font = _font_for(text, 18)
    if font is None:
        text, font = "The prompt is in the JSON file beside this picture.", ImageFont.load_default(18)
    caption = _wrap(text, font, width - 2 * GAP)

    height = GAP + len(rows) * (LABEL_HEIGHT + CELL_HEIGHT + GAP) + len(caption) * LINE_HEIGHT + GAP * bool(caption)
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    top = GAP
    for row in rows:
        _draw_row(sheet, draw, row, top)
        top += LABEL_HEIGHT + CELL_HEIGHT + GAP
    for line in caption:
        draw.text((GAP, top), line, INK, font)
        top += LINE_HEIGHT
    return sheet


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


def _font_for(text: str, size: int) -> Font | None:
    """A font that can draw ``text``, or None."""
    fonts = [ImageFont.load_default(size)]
    for name in FONTS:
        with contextlib.suppress(OSError):
            fonts.append(ImageFont.truetype(name, size))
    return next((font for font in fonts if _can_draw(font, text)), None)


def _can_draw(font: Font, text: str) -> bool:
    """Whether no letter of ``text`` looks like one that exists in no font."""
    missing = _glyph(font, "\uffff")
    return all(letter.isspace() or _glyph(font, letter) != missing for letter in set(text))


def _glyph(font: Font, letter: str) -> bytes:
    picture = Image.new("L", (64, 64))
    ImageDraw.Draw(picture).text((0, 0), letter, 255, font)
    return picture.tobytes()


def _wrap(text: str, font: Font, width: int) -> list[str]:
    """Lines no wider than ``width`` pixels; broken between words, or anywhere in scripts without spaces."""
    lines = [""]
    for word in re.findall(r"[^\s\u2e80-\uffff]+\s*|[\u2e80-\uffff]", " ".join(text.split())):
        if lines[-1] and font.getlength(lines[-1] + word.rstrip()) > width:
            lines.append("")
        lines[-1] += word
    return [line.rstrip() for line in lines if line]
