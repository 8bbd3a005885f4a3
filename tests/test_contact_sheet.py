from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from kaleido_core import contact_sheet
from kaleido_core.contact_sheet import write_contact_sheet


def moving_square(frames: int = 5, height: int = 32, width: int = 48) -> np.ndarray:
    clip = np.full((frames, height, width, 3), (30, 90, 160), np.uint8)
    for index in range(frames):
        clip[index, 8:24, 4 + 4 * index : 20 + 4 * index] = (220, 60, 40)
    return clip


@pytest.mark.parametrize("references", [0, 1, 3, 7])
@pytest.mark.parametrize("shape", [(5, 32, 48), (81, 64, 112), (17, 112, 64), (1, 32, 32)])
def test_a_sheet_holds_all_pictures_without_growing_wide(references: int, shape, tmp_path: Path):
    clip = moving_square(*shape)
    write_contact_sheet(tmp_path / "sheet.png", list(clip[:1]) * references, clip, "a red square " * 20, fps=16)
    sheet = Image.open(tmp_path / "sheet.png")
    assert sheet.width <= contact_sheet.SHEET_WIDTH + 2 * contact_sheet.GAP
    pixels = np.asarray(sheet).reshape(-1, 3).astype(int)
    red = (np.abs(pixels - (220, 60, 40)).max(1) < 40).sum()
    one = 256 * (contact_sheet.CELL_HEIGHT / shape[1]) ** 2
    assert red > 0.6 * one * (references * (min(shape[0], 5) > 0) + 1)


@pytest.mark.parametrize("prompt", ["", "一只狐狸在雪地里奔跑" * 30, "\U0001f98a" * 10, "word" * 300])
def test_any_prompt_fits_below_the_pictures(prompt: str, tmp_path: Path):
    write_contact_sheet(tmp_path / "sheet.png", [], moving_square(), prompt)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width <= contact_sheet.SHEET_WIDTH + 2 * contact_sheet.GAP


def test_letters_that_a_font_lacks_are_not_drawn_as_boxes():
    font = ImageFont.load_default(18)
    assert contact_sheet._can_draw(font, "A “plain” prompt…")
    for text in ("Лиса в снегу", "café", "狐狸", "🦊"):
        assert not contact_sheet._can_draw(font, text)
