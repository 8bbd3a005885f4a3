"""What surrounds a request on disk: lists of prompts, reference images, the record that ``--replay`` reads."""

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from .checkpoints.load import DEMO_REFERENCES
from .contact_sheet import write_contact_sheet
from .errors import ConfigError, DataError, KaleidoError
from .generate import Result
from .request import Defaults, Request
from .shapes import nearest_side
from .video import read_metadata, write_video

VERSION = "0.1.0"
LANDSCAPE = 896 / 512  # the model's own aspect


@dataclass(frozen=True)
class ReferenceFile:
    """An image file and the SHA-256 of its bytes."""

    path: str
    sha256: str


@dataclass(frozen=True)
class Record:
    """How a clip was made: enough to make it again, and to tell whether it came out the same.

    ``latent_sha256`` is empty where the writer did not see the latent, as in ComfyUI.
    """

    kaleido: str
    torch: str
    device: str
    request: Request
    references: tuple[ReferenceFile, ...]
    latent_sha256: str


@dataclass(frozen=True)
class Job:
    """A request with its files: the images found, and the mp4 to write (png and json go beside it)."""

    request: Request
    references: tuple[Path, ...]
    out: Path


@dataclass(frozen=True)
class Line:
    """One line of a list: its number in the file, the prompt, the images as written there."""

    number: int
    prompt: str
    references: tuple[str, ...]


def parse_size(text: str, defaults: Defaults) -> tuple[int, int]:
    """``landscape``, ``portrait``, ``square`` (as many pixels as the default) or ``WxH`` -> height, width."""
    area = defaults.height * defaults.width
    short = nearest_side(round(math.sqrt(area / LANDSCAPE)))
    long = nearest_side(round(short * LANDSCAPE))
    side = nearest_side(round(math.sqrt(area)))
    named = {"landscape": (short, long), "portrait": (long, short), "square": (side, side)}
    if text in named:
        return named[text]
    width, cross, height = text.lower().replace("×", "x").partition("x")
    if not (cross and width.isdecimal() and height.isdecimal()):
        raise ConfigError(f"size {text!r}: landscape, portrait, square or WIDTHxHEIGHT is needed, such as 896x512.")
    return int(height), int(width)


def read_list(path: Path) -> list[Line]:
    """The official request list: lines of ``prompt@@image@@image``, any number of images; blank lines pass."""
    try:
        rows = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path} cannot be read: {error}. A UTF-8 text file with one prompt a line is needed."
        ) from error
    lines = []
    for number, row in enumerate(rows, start=1):
        if not row.strip():
            continue
        prompt, *images = row.split("@@")
        if not prompt.strip() or not all(image.strip() for image in images):
            raise DataError(f"{path.name} line {number}: {row!r} has an empty part; write prompt@@image@@image.")
        lines.append(Line(number, prompt, tuple(image.strip() for image in images)))
    if not lines:
        raise DataError(f"{path.name} holds no prompt; one line a clip is needed: prompt@@image@@image.")
    return lines


def find_reference(given: str, *others: Path) -> Path:
    """The image file ``given``, or the first of ``others`` that exists."""
    for path in (Path(given), *others):
        if path.is_file():
            return path
    raise DataError(f"reference {given} does not exist; the path of an image is needed. Check the spelling and folder.")


def open_references(paths: Sequence[Path]) -> list[Image.Image]:
    """The images, decoded."""
    images = []
    for path in paths:
        try:
            image = Image.open(path)
            image.load()
        except (OSError, Image.DecompressionBombError) as error:
            raise DataError(f"reference {path} cannot be read: {error}. Save it as PNG or JPEG.") from error
        images.append(image)
    return images


def outputs_of(out: Path) -> tuple[Path, Path, Path]:
    """The clip, its contact sheet and its record."""
    return out, out.with_suffix(".png"), out.with_suffix(".json")


def check_free(out: Path) -> None:
    """Refuse to write over anything."""
    taken = [path for path in outputs_of(out) if path.exists()]
    if taken:
        raise ConfigError(
            f"{taken[0]} exists already; nothing is written over. Choose another --out or add --overwrite."
        )


def next_free(folder: Path) -> Path:
    """``kaleido-0001.mp4`` or the first later number that is not in use."""
    number = 1
    while any(path.exists() for path in outputs_of(folder / f"kaleido-{number:04}.mp4")):
        number += 1
    return folder / f"kaleido-{number:04}.mp4"


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def latent_sha256(latent: Tensor) -> str:
    """SHA-256 of the latent's float32 bytes."""
    return hashlib.sha256(latent.detach().to("cpu", torch.float32).contiguous().numpy().tobytes()).hexdigest()


def record_of(job: Job, latent: Tensor, device: str) -> Record:
    return Record(
        kaleido=VERSION,
        torch=torch.__version__,
        device=device,
        request=job.request,
        references=tuple(ReferenceFile(path.as_posix(), file_sha256(path)) for path in job.references),
        latent_sha256=latent_sha256(latent),
    )


def write_outputs(job: Job, result: Result, record: Record) -> None:
    """Clip, contact sheet and record: all three, or nothing."""
    request, names = job.request, outputs_of(job.out)
    with tempfile.TemporaryDirectory(prefix=".kaleido-", dir=job.out.parent) as folder:
        clip, sheet, sidecar = (Path(folder, name.name) for name in names)
        write_video(result.frames, clip, request.fps, asdict(record))
        write_contact_sheet(sheet, result.reference_views, result.frames, request.prompt, request.fps)
        sidecar.write_text(json.dumps(asdict(record), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        for made, name in zip((clip, sheet, sidecar), names, strict=True):
            os.replace(made, name)


def read_record(path: Path) -> Record:
    """The record of a clip, from the mp4 itself or from the JSON beside it."""
    needed = "a clip or a .json written by `kaleido_core generate` is needed"
    try:
        data = json.loads(path.read_text(encoding="utf-8")) if path.suffix == ".json" else read_metadata(path)
        request = dict(data["request"])
        if unknown := set(request) - {field.name for field in fields(Request)}:
            raise DataError(
                f"{path.name} has settings unknown to Kaleido {VERSION}: {sorted(unknown)}. Update Kaleido."
            )
        request |= {"references": tuple(request["references"]), "loras": tuple(request.get("loras", ()))}
        return Record(
            kaleido=data["kaleido"],
            torch=data["torch"],
            device=data["device"],
            request=Request(**request),
            references=tuple(ReferenceFile(**reference) for reference in data["references"]),
            latent_sha256=data["latent_sha256"],
        )
    except KaleidoError:
        raise
    except OSError as error:
        raise DataError(f"{path} cannot be read; {needed}. Check the path.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path.name} does not say how it was made ({error!r}); {needed}.") from error


def find_recorded(record: Record, beside: Path, given: Sequence[str] = ()) -> tuple[Path, ...]:
    """The record's reference files, unchanged; unless ``given``, where they were, in ``beside`` or among our own."""
    if given and len(given) != len(record.references):
        raise ConfigError(
            f"{len(given)} references for a clip that was made with {len(record.references)}. "
            "Give them all in the same order, or none to use the recorded paths."
        )
    paths = []
    for index, reference in enumerate(record.references):
        if given:
            path = find_reference(given[index])
        else:
            name = Path(reference.path).name
            path = find_reference(reference.path, beside / reference.path, beside / name, DEMO_REFERENCES / name)
        if file_sha256(path) != reference.sha256:
            raise DataError(
                f"reference {path} is not the picture the clip was made with (its SHA-256 differs). "
                "Restore it, or give the original files with --reference in the same order."
            )
        paths.append(path)
    return tuple(paths)
