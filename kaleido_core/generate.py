"""From a prompt and pictures to frames: the inference flow, top to bottom."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from .checkpoints.load import TINY, load_dit, load_text_encoder, load_tokenizer, load_vae
from .checkpoints.lora import merge_lora, read_lora
from .dit.attention import use_attention
from .dit.compiled import compile_blocks
from .dit.model import KaleidoDiT
from .errors import ConfigError
from .offloading.memory_plan import TEXT_WORK
from .placement import (
    ON_CPU,
    Placement,
    place,
    with_index,
    within_memory,
    work_of_decoding,
    work_of_transformer,
)
from .quantization.quantize import quantize
from .references import Picture, clean_picture, encode_references, letterbox_image
from .request import (
    VAE_DTYPES,
    Request,
    defaults_for,
)
from .sampling.sampler import OnStep
from .sampling.schedule import initial_noise, sigma_schedule
from .sampling.speed import branches_of, sample_at, speed_of
from .shapes import MAX_REFERENCES, Conditioning, VideoSize, check_reference_count
from .text.encoder import UMT5Encoder
from .text.tokenizer import Tokenizer
from .vae.model import WanVAE, channels_last

TINY_CONTEXT_ROWS = 64  # text rows, padding included, that the embedded model was trained with

Stage = Literal["text", "references", "sampling", "decoding"]
OnStage = Callable[[Stage], None]


@dataclass(frozen=True)
class Models:
    """The parts of a loaded model, and where they work. Raises ``ConfigError`` where they do not fit together."""

    dit: KaleidoDiT
    vae: WanVAE
    text_encoder: UMT5Encoder
    tokenizer: Tokenizer
    placement: Placement = ON_CPU

    def __post_init__(self) -> None:
        dit, vae, text = self.dit.config, self.vae.config, self.text_encoder.config
        for what, ours, theirs in (
            ("text features", dit.text_width, text.width),
            ("latent channels", dit.latent_channels, vae.latent_channels),
        ):
            if ours != theirs:
                raise ConfigError(
                    f"The transformer reads {ours} {what}, its partner gives {theirs}. "
                    "Name the text encoder and the autoencoder that belong to it."
                )

    @property
    def device(self) -> torch.device:
        return self.placement.device


@dataclass(frozen=True)
class Result:
    """``frames`` uint8 ``[F H W 3]``, the clean ``latent`` float32 ``[1 16 T h w]``, and the references as the model
    saw them, uint8 ``[H W 3]`` each."""

    frames: np.ndarray
    latent: Tensor
    reference_views: tuple[np.ndarray, ...]


def load_models(request: Request, device: torch.device | str = "cpu", room: int | None = None) -> Models:
    """All parts of ``request.model``, in bfloat16, or float32 on the CPU; the autoencoder in ``request.vae_dtype``.

    They lie on ``device`` for good if they fit into ``room`` bytes (None: all that is free) beside the work on a clip
    of the request's size, else they take turns.
    """
    device = with_index(device)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    model = request.model if request.model == TINY else Path(request.model).expanduser()
    folder = model.parent if isinstance(model, Path) and not model.is_dir() else model
    # The smallest first: what is missing shows before the largest is read.
    loras = [read_lora(given) for given in request.loras]
    tokenizer = load_tokenizer(request.tokenizer or request.text_encoder or folder)
    if request.model == TINY:
        tokenizer.length = TINY_CONTEXT_ROWS
    vae = load_vae(request.vae or folder, dtype=VAE_DTYPES[request.vae_dtype])
    if device.type == "cuda" and request.vae_dtype == "bf16":
        channels_last(vae)  # as exact; 81 frames of 512x896 decode in 1.17 s on an H200
    text_encoder = load_text_encoder(request.text_encoder or folder, dtype=dtype)
    dit = load_dit(model, dtype=dtype)
    for lora in loras:
        merge_lora(dit, lora, device)
    use_attention(dit, request.attention)
    if request.eight_bit:
        quantize(dit, request.eight_bit, device)
    if request.compile:
        compile_blocks(dit, device)
    work = max(work_of_sampling(dit, request, MAX_REFERENCES), work_of_decoding(vae, request.size))
    return Models(dit, vae, text_encoder, tokenizer, place(device, (dit, vae, text_encoder), work, room))


@torch.no_grad()
def render(
    models: Models,
    request: Request,
    images: Sequence[Picture],
    on_step: OnStep | None = None,
    on_stage: OnStage | None = None,
) -> Result:
    """Make the clip that ``request`` asks for from the opened ``images``, in the order of its references.

    ``on_stage`` hears each stage as it begins, ``on_step`` each solver step; an exception raised there stops the run.
    Raises ``ShapeError`` for a size or a number of references that the model cannot take.
    """
    tell = on_stage or (lambda stage: None)
    size = request.size
    check_reference_count(len(images), request.allow_extra_references)

    tell("text")
    context, negative = encode_text_somewhere(models, [request.text, request.negative]).chunk(2)

    tell("references")
    if request.clean_references:
        images = [clean_picture(image) for image in images]
    views = [letterbox_image(image, size.height, size.width) for image in images]

    def encode(pixels: Tensor) -> Tensor:
        return within_memory(models.placement, models.vae, lambda placement: placement.encode(models.vae, pixels))

    references = encode_references(encode, views, size)

    tell("sampling")
    cond = Conditioning(context, references, request.allow_extra_references)
    latent = sample_somewhere(models, request, cond, replace(cond, context=negative), on_step)

    tell("decoding")
    pixels = within_memory(models.placement, models.vae, lambda placement: placement.decode(models.vae, latent))
    frames = to_frames(pixels)
    return Result(frames, latent.cpu(), tuple(np.asarray(view) for view in views))


def encode_text_somewhere(models: Models, texts: list[str]) -> Tensor:
    """``encode_text``, with less of the encoder on the device should its memory run out."""

    def run(placement: Placement) -> Tensor:
        with placement.at_work(models.text_encoder, TEXT_WORK):
            return encode_text(models, texts)

    return within_memory(models.placement, models.text_encoder, run)


def sample_somewhere(
    models: Models, request: Request, cond: Conditioning, uncond: Conditioning, on_step: OnStep | None
) -> Tensor:
    """The clean latent; from the beginning again, with less of the model on the device, should its memory run out."""
    dit = models.dit
    noise = initial_noise(request.size.latent_shape(dit.config.latent_channels), request.seed).to(models.device)
    speed = speed_of(request.speed)
    sigmas = sigma_schedule(speed.steps_of(request.steps), request.shift)
    work = work_of_sampling(dit, request, len(cond.references))

    def run(placement: Placement) -> Tensor:
        with placement.at_work(dit, work):
            return sample_at(speed, dit, noise, sigmas, cond, uncond, request.cfg, request.reference_cfg, on_step)

    return within_memory(models.placement, dit, run)


def work_of_sampling(dit: KaleidoDiT, request: Request, references: int) -> float:
    """Bytes that sampling holds beside the weights."""
    cached = speed_of(request.speed).drift > 0
    branches = branches_of(request.cfg, request.reference_cfg, references) if cached else 0
    return work_of_transformer(dit, request.size, references, branches, request.compile)


def encode_text(models: Models, texts: list[str]) -> Tensor:
    """Cleaned, tokenised and encoded: ``[B L D]``, rows behind the text exactly zero."""
    ids, mask = (part.to(models.device) for part in models.tokenizer(texts))
    return models.text_encoder(ids, mask)


def to_frames(pixels: Tensor) -> np.ndarray:
    """``[1 3 F H W]`` in -1..1 -> uint8 ``[F H W 3]``, cut down to whole levels as the official script does."""
    # Frame by frame: whole, the steps in between would take more memory than decoding in tiles does.
    levels = [(255 * ((frame.float() + 1) / 2).clamp(0, 1)).byte() for frame in pixels[0].unbind(1)]
    return torch.stack(levels).permute(0, 2, 3, 1).cpu().numpy()


def generate(
    prompt: str,
    images: Sequence[Picture] = (),
    model: str = TINY,
    size: VideoSize | None = None,
    steps: int | None = None,
    cfg: float | None = None,
    shift: float | None = None,
    seed: int = 0,
    negative: str | None = None,
    device: torch.device | str = "cpu",
    on_step: OnStep | None = None,
    *,
    vae: str | None = None,
    text_encoder: str | None = None,
    tokenizer: str | None = None,
    clean_references: bool = False,
    allow_extra_references: bool = False,
    speed: str = "exact",
    reference_cfg: float | None = None,
) -> np.ndarray:
    """A clip of the subjects in ``images`` (0 to 3) doing what ``prompt`` says: uint8 ``[F H W 3]``.

    Settings are those of ``Request``, None the model's own. Raises ``KaleidoError`` for what does not fit.
    """
    if not prompt.strip() and not images:
        raise ConfigError("There is no prompt and no image; the model needs at least one. Describe the clip.")
    defaults = defaults_for(model)
    size = size or VideoSize(defaults.frames, defaults.height, defaults.width)
    request = Request(
        prompt=prompt,
        model=model,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        height=size.height,
        width=size.width,
        frames=size.frames,
        steps=defaults.steps if steps is None else steps,
        cfg=defaults.cfg if cfg is None else cfg,
        reference_cfg=defaults.reference_cfg if reference_cfg is None else reference_cfg,
        shift=defaults.shift if shift is None else shift,
        seed=seed,
        negative=defaults.negative if negative is None else negative,
        fps=defaults.fps,
        clean_references=clean_references,
        allow_extra_references=allow_extra_references,
        speed=speed,
    )
    return render(load_models(request, device), request, images, on_step).frames
