"""Emoji artwork as subjects: build the pack from two npm tarballs, and load it.

``python -m training.tiny.emoji TARBALLS_DIR OUT_DIR`` reads what
``npm pack emoji-datasource-google@16.0.0 emoji-datasource-twitter@16.0.0`` downloads.
"""

import argparse
import functools
import hashlib
import io
import json
import logging
import re
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kaleido_core.errors import DataError

VENDORS = ("google", "twitter")
VERSION = "16.0.0"
SIDE = 64  # pixels of a drawing
_PERSON, _GENDERED = "1F9D1", ("1F468", "1F469", "1F9D1")
_JOINTS = ("200D", "2640", "2642", "FE0F")  # the joiner, the gender signs, the picture mark
HELD_OUT_PERCENT = 18

logger = logging.getLogger("kaleido.training")

_NOT_SUBJECTS = re.compile(r"^family\b|facing[ _]right|^clock ?face (?!three oclock$)|^keycap")
_NOT_CATEGORIES = ("Symbols", "Flags", "Component")
_FILLER = re.compile(r"^(white|black) (?=(up|down|left|right|sun)\b)| (sign|symbol|emblem)$")
_BETTER_NAMES = {
    "hocho": "kitchen knife",
    "moyai": "stone face",
    "hankey": "pile of poo",
    "pouting face": "furious face",
    "bullettrain front": "bullet train",
    "clock face three oclock": "clock face",
    "father christmas": "santa claus",
    "mx claus": "christmas elf",
    "public address loudspeaker": "loudspeaker",
}

NOTICE = """Emoji artwork: 64 pixel PNGs of the npm packages emoji-datasource-google
and emoji-datasource-twitter {version}.

google/   Noto Emoji. Copyright Google LLC. Apache License 2.0, https://www.apache.org/licenses/LICENSE-2.0
twitter/  Twemoji. Copyright Twitter, Inc and other contributors. Creative Commons Attribution 4.0
          International (CC-BY 4.0), https://creativecommons.org/licenses/by/4.0/
          Changes: a selection of the drawings; clips made from them move, turn, scale and recolour them.

The packages themselves (names, index) are under this licence:

{licence}"""


@dataclass(frozen=True)
class EmojiSet:
    """Drawings and what they show. M drawings; two vendors may draw the same identity.

    ``sprites`` uint8 ``[M 4 64 64]`` RGBA, not premultiplied, on any device; the rest stays on the CPU:
    ``identity`` int64 ``[M]`` (0..I-1, none left out), ``vendor`` int64 ``[M]`` (index into ``VENDORS``),
    ``held_out`` bool ``[M]``.
    """

    sprites: Tensor
    names: tuple[str, ...]
    identity: Tensor
    vendor: Tensor
    held_out: Tensor

    @functools.cached_property
    def drawings(self) -> Tensor:
        """int64 ``[I 2]``: the drawing of each identity by each vendor; a missing one is the other vendor's."""
        found = {(i, v): m for m, (i, v) in enumerate(zip(self.identity.tolist(), self.vendor.tolist(), strict=True))}
        pairs = [(found.get((i, 0)), found.get((i, 1))) for i in range(int(self.identity.max()) + 1)]
        return torch.tensor([[b if a is None else a, a if b is None else b] for a, b in pairs])

    @functools.cached_property
    def mean_colour(self) -> Tensor:
        """float32 ``[M 3]`` in 0..1, on the CPU: the average of the visible pixels."""
        rgb, alpha = self.sprites[:, :3].float(), self.sprites[:, 3:].float()
        mean = (rgb * alpha).sum((2, 3)) / alpha.sum((2, 3)).clamp_min(1)
        return (mean / 255).cpu()


@dataclass(frozen=True)
class Drawing:
    """One PNG of the pack. ``code`` is the emoji's code points, the identity."""

    path: str
    code: str
    name: str
    vendor: int
    held_out: bool


def is_held_out(code: str) -> bool:
    """Whether an identity is never trained on; decided by its code points alone.

    A woman, a man and a person doing the same look alike: they fall on one side.
    """
    points = [_PERSON if point in _GENDERED else point for point in code.split("-") if point not in _JOINTS]
    digest = hashlib.sha256("-".join(points).encode()).digest()
    return int.from_bytes(digest[:4], "big") % 100 < HELD_OUT_PERCENT


def short_name(entry: dict) -> str:
    """A lower-case English name of at most four words, of an entry of emoji.json."""
    for text in (entry["name"], entry["short_name"]):
        text = text.lower().replace("-shaped", "").replace("’", "").replace("'", "")
        text = re.sub(r"[^a-z0-9]+", " ", re.sub(r"\(.*?\)", "", text)).strip()
        text = re.sub(r" \d+$", "", _FILLER.sub("", text))
        text = _BETTER_NAMES.get(text, text)
        if len(text.split()) <= 4:
            return text
    words = [word for word in text.split() if word not in ("with", "and", "the", "at", "of", "in")]
    return " ".join(words[:4])


def drawings(entries: list[dict]) -> list[Drawing]:
    """The drawable subjects of emoji.json, sorted by code points; both vendors where they draw it."""
    found = []
    for entry in sorted(entries, key=lambda entry: entry["unified"]):
        is_symbol = entry["category"] in _NOT_CATEGORIES
        if is_symbol or _NOT_SUBJECTS.search(entry["name"].lower()):
            continue
        code, name = entry["unified"], short_name(entry)
        for vendor, maker in enumerate(VENDORS):
            if entry[f"has_img_{maker}"]:
                found.append(Drawing(f"{maker}/{entry['image']}", code, name, vendor, is_held_out(code)))
    return found


def _tarball(folder: Path, vendor: str) -> dict[str, bytes]:
    """The index, the licence and the 64 pixel drawings of one npm package, by path."""
    path = folder / f"emoji-datasource-{vendor}-{VERSION}.tgz"
    if not path.is_file():
        raise DataError(f"{path} is missing; we need both tarballs. Run: npm pack emoji-datasource-{vendor}@{VERSION}")
    wanted = re.compile(rf"package/(emoji\.json|LICENSE|img/{vendor}/{SIDE}/(.*\.png))$")
    files = {}
    with tarfile.open(path) as archive:
        for member in archive:
            match = wanted.match(member.name)
            content = archive.extractfile(member) if match else None
            if match and content:
                key = f"{vendor}/{match[2]}" if match[2] else match[1]
                files[key] = content.read()
    return files


def build_pack(tarballs: Path, out: Path) -> list[Drawing]:
    """Write ``emoji.zip`` (the same bytes each time) and ``EMOJI-LICENCE.txt`` into ``out``."""
    files = {}
    for vendor in VENDORS:
        files |= _tarball(tarballs, vendor)
    chosen = [drawing for drawing in drawings(json.loads(files["emoji.json"])) if drawing.path in files]
    out.mkdir(parents=True, exist_ok=True)
    index = json.dumps([drawing.__dict__ for drawing in chosen], indent=0)
    with zipfile.ZipFile(out / "emoji.zip", "w") as pack:
        _store(pack, "index.json", index.encode(), zipfile.ZIP_DEFLATED)
        for drawing in chosen:
            _store(pack, drawing.path, files[drawing.path], zipfile.ZIP_STORED)
    licence = files["LICENSE"].decode()
    (out / "EMOJI-LICENCE.txt").write_text(NOTICE.format(version=VERSION, licence=licence))
    return chosen


def _store(pack: zipfile.ZipFile, path: str, content: bytes, compression: int) -> None:
    # A fixed date: two builds give the same bytes.
    pack.writestr(zipfile.ZipInfo(path, (1980, 1, 1, 0, 0, 0)), content, compression)


def load_emoji(path: str | Path, device: str | torch.device = "cpu") -> EmojiSet:
    """Read ``emoji.zip``; the sprites go to ``device``."""
    with zipfile.ZipFile(path) as pack:
        chosen = [Drawing(**fields) for fields in json.loads(pack.read("index.json"))]
        pictures = [Image.open(io.BytesIO(pack.read(drawing.path))).convert("RGBA") for drawing in chosen]
    sprites = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))  # [M H W 4]
    seats = {code: number for number, code in enumerate(sorted({drawing.code for drawing in chosen}))}
    return EmojiSet(
        sprites=sprites.permute(0, 3, 1, 2).contiguous().to(device),
        names=tuple(drawing.name for drawing in chosen),
        identity=torch.tensor([seats[drawing.code] for drawing in chosen]),
        vendor=torch.tensor([drawing.vendor for drawing in chosen]),
        held_out=torch.tensor([drawing.held_out for drawing in chosen]),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("tarballs", type=Path, help="folder with the two npm tarballs")
    parser.add_argument("out", type=Path, help="folder for emoji.zip and its licence")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    chosen = build_pack(arguments.tarballs, arguments.out)
    kept_back = {drawing.code for drawing in chosen if drawing.held_out}
    logger.info("%d drawings of %d identities, %d held out", len(chosen), len({d.code for d in chosen}), len(kept_back))


if __name__ == "__main__":
    main()
