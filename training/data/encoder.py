"""A record as the tensors that training reads: the core's own steps, in the core's own order."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps
from PIL.ExifTags import Base
from torch import Tensor

from kaleido_core.checkpoints.load import TINY, load_text_encoder, load_tokenizer, load_vae
from kaleido_core.errors import ConfigError, DataError
from kaleido_core.generate import TINY_CONTEXT_ROWS
from kaleido_core.offloading.memory_plan import TEXT_WORK
from kaleido_core.placement import Placement, place, work_of_decoding
from kaleido_core.references import clean_picture, encode_references, prepare_reference
from kaleido_core.shapes import VideoSize
from kaleido_core.text.encoder import UMT5Encoder
from kaleido_core.text.tokenizer import Tokenizer
from kaleido_core.vae.model import WanVAE, channels_last

from .frames import FrameRule, read_frames
from .record import Picture, Record

LATENT_DTYPE = torch.float16  # rounds a latent by 5e-4 at most, a tenth of what a bfloat16 autoencoder does
CONTEXT_DTYPE = torch.bfloat16
ORIENTATION = Base.Orientation


@dataclass(frozen=True)
class Look:
    """How clips and references are taken: of the ``sizes`` the one that crops a video least.

    ``copies`` of every picture besides itself, each mirrored or not, scaled and lit a little otherwise.
    """

    sizes: tuple[VideoSize, ...]
    rule: FrameRule = "by_time"
    copies: int = 0

    def __post_init__(self) -> None:
        if not self.sizes:
            raise ConfigError("No size to train at; at least one is needed, such as 896x512x81.")
        if not 0 <= self.copies <= 16:
            raise ConfigError(f"{self.copies} copies of each picture; 0 to 16 are possible.")


@dataclass(frozen=True)
class Pixels:
    """What was read of a record: ``clip`` uint8 ``[F 3 H W]``; pictures, letterboxed, of each reference."""

    record: Record
    clip: Tensor
    references: tuple[tuple[Image.Image, ...], ...]
    weights: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Encoders:
    """The autoencoder and the text encoder, frozen, and where they work."""

    vae: WanVAE
    text_encoder: UMT5Encoder
    tokenizer: Tokenizer
    placement: Placement

    @torch.no_grad()
    def context(self, caption: str) -> Tensor:
        """``[L D]``, without the rows of zeros behind it."""
        ids, mask = (part.to(self.placement.device) for part in self.tokenizer([caption]))
        with self.placement.at_work(self.text_encoder, TEXT_WORK):
            rows = self.text_encoder(ids, mask)[0]
        return rows[: max(1, int(mask.sum()))].to("cpu", CONTEXT_DTYPE)

    @torch.no_grad()
    def latent(self, pixels: Tensor) -> Tensor:
        """``[1 3 F H W]`` in -1..1 -> ``[1 16 T h w]``."""
        return self.placement.encode(self.vae, pixels).to("cpu", LATENT_DTYPE)

    def encode(self, pixels: Pixels) -> dict[str, Tensor]:
        """``latent``, ``context`` and ``reference.I.VARIANT``, each reference a clip of one frame of its own."""
        size = VideoSize(len(pixels.clip), *pixels.clip.shape[-2:])
        clip = pixels.clip.movedim(1, 0).float().sub_(127.5).div_(127.5)[None]
        tensors = {"latent": self.latent(clip)[0], "context": self.context(pixels.record.caption)}
        for subject, pictures in enumerate(pixels.references):
            for variant, latent in enumerate(encode_references(self.latent, pictures, size)):
                tensors[f"reference.{subject}.{variant}"] = latent[0]
        return tensors


def load_encoders(
    weights: str, vae: str, text_encoder: str, tokenizer: str, size: VideoSize, device: torch.device
) -> Encoders:
    """From "tiny" or a folder, and files that lie elsewhere ("" for none). ``size``: the largest clip to encode."""
    of_vae, of_text = vae or weights, text_encoder or weights
    if (of_vae == TINY) != (of_text == TINY):
        raise ConfigError(
            f"Autoencoder {of_vae}, text encoder {of_text}: no model reads both. Name the other one, too."
        )
    words = load_tokenizer(tokenizer or of_text)
    if of_text == TINY:
        words.length = TINY_CONTEXT_ROWS
    on_card = device.type == "cuda"
    dtype = torch.bfloat16 if on_card else torch.float32
    autoencoder = load_vae(of_vae, dtype=dtype)
    if on_card:
        channels_last(autoencoder)
    encoder = load_text_encoder(of_text, dtype=dtype)
    work = work_of_decoding(autoencoder, size)  # encoding takes less
    return Encoders(autoencoder, encoder, words, place(device, (autoencoder, encoder), work, None))


def read_pixels(record: Record, look: Look) -> Pixels:
    """Decode the clip and open the pictures. Raises ``DataError`` for what is missing or damaged."""
    clip = read_frames(record.video, record.t0, record.t1, look.sizes, look.rule)
    size = VideoSize(len(clip), *clip.shape[-2:])
    subjects = record.subjects
    random = np.random.default_rng(list(record.id.encode()))
    pictures = tuple(tuple(_open(subject, size, look, random)) for subject in subjects)
    weights = tuple(
        tuple(picture.weight for picture in subject for _ in range(1 + look.copies)) for subject in subjects
    )
    return Pixels(record, clip, pictures, weights)


def _open(subject: Sequence[Picture], size: VideoSize, look: Look, random: np.random.Generator) -> list[Image.Image]:
    opened = []
    for picture in subject:
        image, keep = _read(picture)
        opened.append(prepare_reference(image, size, keep=keep))
        opened += [_varied(image, keep, size, random) for _ in range(look.copies)]
    return opened


def _read(picture: Picture) -> tuple[Image.Image, np.ndarray | None]:
    stored = open_picture(picture.path)
    upright = clean_picture(stored)
    if picture.mask is None:
        return upright, None
    mask = open_picture(picture.mask)
    if mask.size == stored.size != upright.size:  # its maker did not see the picture turned
        mask.getexif()[ORIENTATION] = stored.getexif()[ORIENTATION]
    return upright, np.asarray(ImageOps.exif_transpose(mask).convert("L"), np.float32) / 255


def open_picture(path: str) -> Image.Image:
    """Read whole, as it is stored. Raises ``DataError``."""
    try:
        with Image.open(path) as image:
            image.load()
            return image
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as a picture ({error}). Check it, or remove it.") from error


def _varied(image: Image.Image, keep: np.ndarray | None, size: VideoSize, random: np.random.Generator) -> Image.Image:
    """Mirrored or not, smaller on its canvas, in other light: the same subject, another picture."""
    canvas = prepare_reference(image, size, keep=keep)
    pixels = np.asarray(canvas, np.float32) / 255
    if random.random() < 0.5:
        pixels = pixels[:, ::-1]
    lit = (pixels ** np.exp(random.uniform(-0.2, 0.2)) * random.uniform(0.85, 1.1)).clip(0, 1)
    white = (pixels > 0.985).all(-1, keepdims=True)  # the canvas keeps its colour
    lit = Image.fromarray((np.where(white, pixels, lit) * 255).round().astype(np.uint8))
    scale = random.uniform(0.75, 1.0)
    small = lit.resize((round(size.width * scale), round(size.height * scale)), Image.Resampling.LANCZOS)
    result = Image.new("RGB", (size.width, size.height), (255, 255, 255))
    room = size.width - small.width, size.height - small.height
    result.paste(small, (int(random.uniform(0, 1) * room[0]), int(random.uniform(0, 1) * room[1])))
    return result
