"""Pictures of a record, as the model will see them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kaleido_core import VideoSize, write_video
from training.data.encoder import ORIENTATION, Look, read_pixels
from training.data.record import Picture, Record

LOOK = Look((VideoSize(1, 64, 64),))
QUARTER = Image.Transpose.ROTATE_270


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A picture with a dark stripe that EXIF turns, one that is turned already, and masks of the stripe."""
    write_video(np.zeros((1, 64, 64, 3), np.uint8), tmp_path / "clip.mp4")
    turned = Image.Exif()
    turned[ORIENTATION] = 6  # a quarter to the right, as phones write it
    pixels, keep = np.full((40, 30, 3), 90, np.uint8), np.zeros((40, 30), np.uint8)
    pixels[:10], keep[:10] = 30, 255
    picture, mask = Image.fromarray(pixels), Image.fromarray(keep)
    picture.save(tmp_path / "turned.png", exif=turned)
    picture.transpose(QUARTER).save(tmp_path / "upright.png")
    mask.save(tmp_path / "as_stored.png")
    mask.save(tmp_path / "turned_too.png", exif=turned)
    mask.transpose(QUARTER).save(tmp_path / "as_seen.png")
    return tmp_path


def reference(folder: Path, picture: str, mask: str) -> np.ndarray:
    pictures = (Picture(str(folder / picture), "cat", mask=str(folder / mask)),)
    record = Record("clip", str(folder / "clip.mp4"), "", references=pictures)
    return np.asarray(read_pixels(record, LOOK).references[0][0]).astype(int)


def test_a_mask_lies_over_its_picture_however_either_is_turned(folder: Path):
    wanted = reference(folder, "upright.png", "as_seen.png")
    stripe, rest = wanted < 60, abs(wanted - 90) < 10
    assert stripe.mean() > 0.1 > 0.03 > rest.mean(), "the stripe alone is kept"
    for mask in ("as_seen.png", "as_stored.png", "turned_too.png"):
        assert (reference(folder, "turned.png", mask) == wanted).all(), mask
