"""The report's pictures: frames of clips and the references beside them, as small JPEG files of its own."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image

from kaleido_core.errors import DataError, KaleidoError
from training.data.record import Picture

from . import pairs_file
from .clip import Clip
from .models.kinds import Pixels
from .pairs_file import Pairing
from .report_charts import short
from .report_numbers import Edge

MOMENTS = (0.06, 0.35, 0.65, 0.94)  # of a clip's time, as its frames on a sheet
TALL = 120  # pixels of a thumbnail
KINDS: Mapping[str, str] = {
    "masked": "masked",
    "other_time": "other time",
    "cross_clip": "cross-clip",
    "new_background": "new background",
    "changed": "changed",
    "inpainted": "inpainted",
    "plate": "clean plate",
}

ReadPictures = Callable[[Path, Sequence[float]], list[Pixels]]


@dataclass(frozen=True)
class Sheets:
    """Writes thumbnails into ``folder`` of ``out`` and gives the HTML that shows them."""

    out: Path
    folder: str
    read_pictures: ReadPictures

    def clip(self, clip: Clip) -> str:
        """Frames on top, references below, with how each was made."""
        alike = read_alike(self.out, clip)
        references = "".join(self.reference(clip, picture, alike.get(picture.path)) for picture in clip.references)
        return (
            f'<article id="clip-{escape(clip.id)}"><h3>{escape(clip.id)} <small>{_facts(clip)}</small></h3>'
            f"<p>{escape(clip.caption) or '<em>no caption</em>'}</p>"
            f'<div class="strip frames">{self.frames(clip, MOMENTS)}</div>'
            f'<div class="strip">{references}</div></article>'
        )

    def cross(self, clip: Clip, picture: Picture, alike: Pairing | None) -> str:
        """One cross-pair: the clip it trains and the picture from elsewhere."""
        other = f" from {escape(alike.other)}" if alike and alike.other else ""
        likeness = f"likeness {alike.likeness:.2f}" if alike else "likeness not told"
        return (
            f'<article class="pair"><div class="strip">{self.frames(clip, (0.5,))}'
            f"{self.reference(clip, picture, None)}</div><p><b>{likeness}</b> · {escape(picture.label)}"
            f"<br><small>{escape(clip.id)}{other}</small></p></article>"
        )

    def edge(self, edge: Edge) -> str:
        """Nearly failed beside nearly passed."""
        limit = edge.limit
        rule = f"{'above' if limit.above else 'below'} {short(limit.value)}"
        sides = (("Worst kept", "kept", edge.worst_kept), ("Best dropped", "dropped", edge.best_dropped))
        columns = "".join(
            f'<div><h4 class="{name}">{title}</h4><div class="strip">{self._cases(cases)}</div></div>'
            for title, name, cases in sides
        )
        return (
            f"<article><h3>{escape(limit.stage)}: {escape(limit.reason)} <small>{escape(limit.metric)} {rule} "
            f'is dropped</small></h3><div class="edges">{columns}</div></article>'
        )

    def reference(self, clip: Clip, picture: Picture, alike: Pairing | None) -> str:
        words = [KINDS.get(picture.kind, picture.kind) or picture.role]
        words += [f"{alike.likeness:.2f}"] if alike and alike.likeness else []
        words += [{"accept": "✓ accepted", "reject": "✗ rejected"}[picture.review]] if picture.review else []
        label = f"{picture.label or picture.subject}"
        shown = self._thumbnail(f"{clip.id} {picture.path}", lambda: as_trained(self.out, picture))
        caption = f"{escape(label)}<br><small>{escape(' · '.join(words))}</small>"
        return f'<figure class="{escape(picture.review)}">{shown}<figcaption>{caption}</figcaption></figure>'

    def frames(self, clip: Clip, moments: Sequence[float]) -> str:
        """Pictures at these shares of the clip's time; decoded once for all."""
        try:
            path, start = film(self.out, clip)
            times = [start + moment * (clip.end - clip.start) for moment in moments]
            pictures = self.read_pictures(path, times)
        except (KaleidoError, OSError):
            return '<p class="absent">cannot be shown</p>'
        names = [f"{clip.id} {round(100 * moment):02d}" for moment in moments]
        return "".join(self._thumbnail(name, lambda p=p: p) for name, p in zip(names, pictures, strict=False))

    def _cases(self, cases: Sequence[tuple[Clip, float]]) -> str:
        shown = (
            f"<figure>{self.frames(clip, (0.5,))}<figcaption>{short(value)}<br><small>{escape(clip.id)}</small>"
            "</figcaption></figure>"
            for clip, value in cases
        )
        return "".join(shown) or '<p class="absent">none</p>'

    def _thumbnail(self, of: str, picture: Callable[[], Pixels]) -> str:
        name = f"{hashlib.sha1(of.encode()).hexdigest()[:20]}.jpg"  # an id may be long, or lead out of the folder
        try:
            image = Image.fromarray(picture())
        except (DataError, OSError):
            return '<p class="absent">missing</p>'
        wide = max(round(image.width * TALL / image.height), 1)
        image.resize((wide, TALL), Image.Resampling.LANCZOS).save(self.out / self.folder / name, quality=82)
        return f'<img loading="lazy" alt="" width="{wide}" height="{TALL}" src="{quote(f"{self.folder}/{name}")}">'


def film(out: Path, clip: Clip) -> tuple[Path, float]:
    """The file that shows the clip, and the second at which it begins there."""
    return (inside(out, clip.video), 0.0) if clip.video else (Path(clip.source.path), clip.start)


def inside(out: Path, path: str) -> Path:
    """A manifest can name any file of the machine; only those of the output folder are shown."""
    file = (out / path).resolve()
    if not file.is_relative_to(out.resolve()):
        raise DataError(f"{path} lies outside {out}; only what curation wrote there is shown. Correct the path.")
    return file


def as_trained(out: Path, picture: Picture) -> Pixels:
    """The picture as the cache reads it: white around its mask."""
    with Image.open(inside(out, picture.path)) as image:
        pixels = image.convert("RGB")
    if picture.mask is not None:
        with Image.open(inside(out, picture.mask)) as image:
            pixels = Image.composite(pixels, Image.new("RGB", pixels.size, "white"), image.convert("L"))
    return np.asarray(pixels)


def read_alike(out: Path, clip: Clip) -> dict[str, Pairing]:
    """What ``pairs`` wrote of the clip's pictures, by their paths."""
    return {pairing.path: pairing for pairing in pairs_file.read(inside(out, pairs_file.path(clip)))}


def _facts(clip: Clip) -> str:
    return f"{clip.width} x {clip.height} · {clip.end - clip.start:.1f} s · {escape(Path(clip.source.path).name)}"
