"""How a run is doing on what it does not learn from: losses of held-out samples, and clips, made as users make them."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from kaleido_core import KaleidoDiT, load_text_encoder, load_tokenizer, load_vae
from kaleido_core.checkpoints.load import TINY, model_path
from kaleido_core.checkpoints.weights import open_weights
from kaleido_core.contact_sheet import write_contact_sheet
from kaleido_core.generate import TINY_CONTEXT_ROWS, Models, render
from kaleido_core.placement import Placement
from kaleido_core.request import Request, defaults_for
from kaleido_core.shapes import check_reference_count

from .batches import Draw, MicroBatch, Source, load_micro_batch, seed_of, shift_noise
from .config import ClipConfig, Config, NoiseConfig
from .data.encoder import open_picture
from .distributed import Ranks
from .evaluation.identity import match_drawings
from .metrics import Losses
from .trainee import Trainee

logger = logging.getLogger("kaleido.training")

SPRITE_SIDE, IDENTITY_FRAMES = 64, 5


def held_out_losses(trainee: Trainee, source: Source, config: Config, ranks: Ranks) -> dict[str, float]:
    """The mean loss of held-out samples, and that of each range of noise levels.

    Samples, noise and levels are the same at every step and for any number of ranks: curves of runs can be compared.
    """
    losses, seed = Losses(), config.run.seed
    count = min(config.validation.samples, len(source))
    with torch.no_grad():
        for place in range(ranks.data_index, -(-count // ranks.data_count) * ranks.data_count, ranks.data_count):
            micro = load_micro_batch(source, [place % count], 0, (seed, 0))
            weights = micro.weights * (place < count)  # every rank computes as often, for they share weights
            for problem in micro.problems if place < count else ():
                logger.warning("the held-out loss leaves out %s", problem)
            for level in range(config.validation.sigmas):
                draw = _draw(config, micro, place, level)
                losses.add(trainee.losses(micro.batch, draw).cpu(), draw.sigma, weights)
    return {f"held_out_{name}": value for name, value in losses.take(ranks).items()}


def _draw(config: Config, micro: MicroBatch, place: int, level: int) -> Draw:
    """Noise at the middle of the ``level``-th of equally likely ranges of noise levels."""
    share = torch.tensor([(level + 0.5) / config.validation.sigmas])
    latent = micro.batch.latent
    generator = torch.Generator().manual_seed(seed_of(config.run.seed, place, level, 4))
    sigma = shift_noise(config.noise, quantile(config.noise, share), latent.shape[-2:])
    return Draw(torch.randn(latent.shape, generator=generator), sigma)


def quantile(config: NoiseConfig, share: Tensor) -> Tensor:
    """The noise level below which ``share`` of all draws lie, before the shift."""
    if config.distribution == "uniform":
        return share
    return torch.sigmoid(config.mean + config.std * torch.special.ndtri(share))


def check_clips(config: Config) -> None:
    """Raise ``KaleidoError`` for what would stop the first validation: a picture, a size, a model that is missing."""
    clips = config.validation.clips
    for clip in clips:
        check_reference_count(len(clip.references))
        for path in clip.references:
            open_picture(path)
        _request(config, clip).size.latent_shape()  # a size is checked when it is asked for
    if clips:
        of_vae, of_text, of_tokenizer = _places(config)
        open_weights(model_path(of_vae, "vae"), "vae")  # reads what is in there, not the numbers
        open_weights(model_path(of_text, "text"), "text")
        load_tokenizer(of_tokenizer)


class _AtWork(Placement):
    """The transformer is at work already, wherever its trainer put it; other parts come and go."""

    @contextmanager
    def at_work(self, model: nn.Module, work: float = 0.0) -> Iterator[None]:
        if isinstance(model, KaleidoDiT):
            yield
            return
        with super().at_work(model, work):
            yield


def make_clips(trainee: Trainee, config: Config, folder: Path, ranks: Ranks) -> dict[str, float]:
    """Generate every clip of the config as ``folder/clip-1.png``, a contact sheet; identity scores where they apply.

    Every rank computes, for ranks may share the weights; the first one writes.
    """
    models = _models(trainee, config)
    scores: dict[str, float] = {}
    for number, clip in enumerate(config.validation.clips, start=1):
        request = _request(config, clip)
        pictures = [open_picture(path) for path in clip.references]
        result = render(models, request, pictures)
        if ranks.first:
            folder.mkdir(parents=True, exist_ok=True)
            write_contact_sheet(
                folder / f"clip-{number}.png", result.reference_views, result.frames, clip.prompt, request.fps
            )
        for place, score in enumerate(identity_scores(result.frames, pictures), start=1):
            if score is not None:
                scores[f"identity/clip-{number}-reference-{place}"] = score
    return scores


def identity_scores(frames: np.ndarray, pictures: Sequence[Image.Image]) -> list[float | None]:
    """How well frames uint8 ``[F H W 3]`` show each picture (``evaluation/identity.py``), from 0 up.

    None where the metric does not apply: it wants square frames, and flat drawings cut out by transparency.
    """
    square = frames.shape[1] == frames.shape[2]
    chosen = np.linspace(0, len(frames) - 1, min(IDENTITY_FRAMES, len(frames))).round().astype(int)
    images = torch.from_numpy(frames[chosen]).permute(0, 3, 1, 2)[None].float() / 127.5 - 1
    scores: list[float | None] = []
    for picture in pictures:
        if not square or picture.mode != "RGBA":
            scores.append(None)
            continue
        drawing = torch.from_numpy(np.array(picture.resize((SPRITE_SIDE, SPRITE_SIDE)))).permute(2, 0, 1)[None]
        scores.append(match_drawings(images, drawing).score.item())
    return scores


def _request(config: Config, clip: ClipConfig) -> Request:
    chosen, own = config.validation, defaults_for(config.model.weights)
    return Request(
        prompt=clip.prompt,
        references=clip.references,
        model=config.model.weights,
        height=chosen.height or own.height,
        width=chosen.width or own.width,
        frames=chosen.frames or own.frames,
        steps=chosen.steps or own.steps,
        cfg=own.cfg,
        reference_cfg=own.reference_cfg,
        shift=own.shift,
        seed=clip.seed,
        negative=own.negative,
        fps=own.fps,
        clean_references=True,  # as the cache takes them
    )


def _models(trainee: Trainee, config: Config) -> Models:
    """The trained transformer among the other parts, which are read anew: between validations they take no memory."""
    of_vae, of_text, of_tokenizer = _places(config)
    tokenizer = load_tokenizer(of_tokenizer)
    if config.model.weights == TINY:
        tokenizer.length = TINY_CONTEXT_ROWS
    dtype = torch.float32 if trainee.device.type == "cpu" else torch.bfloat16
    text = load_text_encoder(of_text, dtype=dtype)
    room = None
    if trainee.device.type == "cuda":
        torch.cuda.empty_cache()
        room = torch.cuda.mem_get_info(trainee.device)[0]
    placement = _AtWork(trainee.device, room)
    return Models(trainee.dit, load_vae(of_vae), text, tokenizer, placement)


def _places(config: Config) -> tuple[str | Path, str | Path, str | Path]:
    """Of the autoencoder, the text encoder and the tokenizer."""
    chosen, weights = config.validation, config.model.weights
    folder = weights if weights == TINY or Path(weights).is_dir() else Path(weights).parent
    text = chosen.text_encoder or folder
    return chosen.vae or folder, text, chosen.tokenizer or text
