"""Photographs as backdrops: cut from the images inside the scikit-image wheel, and loaded.

``python -m training.tiny.photos OUT_DIR`` needs scikit-image; loading does not.
Only images that scikit-image documents as CC0 or public domain are used.
"""

import argparse
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

SIDE = 256  # pixels of a photograph
Tint = tuple[str, str, str]  # colours of the shadows, the middle and the lights


@dataclass(frozen=True)
class Photo:
    """A square of a scikit-image picture, and how a prompt names it. ``tint`` colours a grey picture."""

    name: str
    file: str
    box: tuple[int, int, int, int]
    source: str
    tint: Tint | None = None


PHOTOS = (
    Photo("a brick wall", "brick.png", (0, 0, 320, 320), "CC0, CC0Textures", ("#3a1a12", "#a5553c", "#e8c4a8")),
    Photo("a grey brick wall", "brick.png", (150, 150, 512, 512), "CC0, CC0Textures"),
    Photo("a grassy lawn", "grass.png", (0, 0, 300, 300), "CC0, Linus Lang", ("#12240c", "#4c8a2c", "#c8dc84")),
    Photo("dry grass", "grass.png", (200, 200, 512, 512), "CC0, Linus Lang", ("#2c2412", "#94804c", "#e8dca8")),
    Photo("gravel", "gravel.png", (0, 0, 300, 300), "CC0, CC0Textures"),
    Photo("a cup of coffee", "coffee.png", (110, 0, 510, 400), "CC0, Rachel Michetti"),
    Photo("a wooden table", "coffee.png", (425, 0, 600, 175), "CC0, Rachel Michetti"),
    Photo("a launch pad at dusk", "rocket.jpg", (106, 0, 533, 427), "public domain, SpaceX"),
    Photo("a field of galaxies", "hubble_deep_field.jpg", (0, 0, 420, 420), "public domain, NASA"),
    Photo("old coins", "coins.png", (0, 0, 303, 303), "no known copyright, Brooklyn Museum"),
)


@dataclass(frozen=True)
class PhotoSet:
    """``pixels`` uint8 ``[P 3 256 256]``, in the order of ``PHOTOS``; ``names`` go into prompts."""

    pixels: Tensor
    names: tuple[str, ...]


def cut(photo: Photo, picture: Image.Image) -> Image.Image:
    """The photograph, tinted and at its final size."""
    square = picture.convert("RGB" if photo.tint is None else "L").crop(photo.box)
    if photo.tint is not None:
        square = ImageOps.colorize(square, photo.tint[0], photo.tint[2], mid=photo.tint[1])
    return square.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def build_pack(out: Path) -> None:
    """Write ``photos.zip`` and ``PHOTOS-LICENCE.txt`` into ``out``."""
    import skimage.data  # only building needs it  # pyright: ignore[reportMissingImports]

    folder = Path(skimage.data.__file__).parent
    out.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(out / "photos.zip", "w") as pack:
        for number, photo in enumerate(PHOTOS):
            content = io.BytesIO()
            cut(photo, Image.open(folder / photo.file)).save(content, "JPEG", quality=90)
            # A fixed date: two builds give the same bytes.
            pack.writestr(zipfile.ZipInfo(f"{number:02d}.jpg", (1980, 1, 1, 0, 0, 0)), content.getvalue())
    lines = [f"{number:02d}.jpg  {photo.name}: {photo.file}, {photo.source}" for number, photo in enumerate(PHOTOS)]
    header = "Squares of pictures bundled with scikit-image, licences as its documentation gives them.\n\n"
    (out / "PHOTOS-LICENCE.txt").write_text(header + "\n".join(lines) + "\n")


def load_photos(path: str | Path, device: str | torch.device = "cpu") -> PhotoSet:
    """Read ``photos.zip`` onto ``device``."""
    with zipfile.ZipFile(path) as pack:
        pictures = [Image.open(io.BytesIO(pack.read(name))).convert("RGB") for name in sorted(pack.namelist())]
    pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))  # [P H W 3]
    return PhotoSet(pixels.permute(0, 3, 1, 2).contiguous().to(device), tuple(photo.name for photo in PHOTOS))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path, help="folder for photos.zip and its licence")
    build_pack(parser.parse_args().out)


if __name__ == "__main__":
    main()
