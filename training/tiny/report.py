"""How good kaleido-tiny is, on subjects it never saw: ``python -m training.tiny.report DATA OUT [--clips 200]``.

Writes ``quality.json`` and contact sheets. A clip finds its reference when, by plain pixel matching, no other of the
candidate drawings explains it better (training/evaluation/identity.py). Three controls are measured on the way: the
ceiling (the true clips), the autoencoder alone (true clips, decoded), and the same prompts without references.
References show the drawing of the true clip in other light, at another size and angle. ``--weights FOLDER`` measures
files that were exported there in place of the shipped ones.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from kaleido_core import Conditioning, initial_noise, load_dit, load_text_encoder, sigma_schedule
from kaleido_core.checkpoints.load import ASSETS, TINY_FILES
from kaleido_core.generate import Models, encode_text, load_models
from kaleido_core.request import DEFAULTS_TINY, Request
from kaleido_core.sampling.speed import SPEEDS, Speed, sample_at
from training.evaluation.identity import Search, all_found_rate, find_drawings

from .data import Artwork, draw_scenes, load_artwork
from .recipe import WHOLE
from .render import render_clips, render_references
from .scene import Scenes
from .train_vae import psnr

PIECE = 50  # clips generated at a time
MATCHED_FRAMES = (1, 6, 11, 15)
PHOTO_CAPTIONS = (
    "The subject slides to the right on a plain teal background.",
    "The subject bounces in front of a green meadow under a blue sky.",
    "The subject spins clockwise against a starry night sky.",
)
SHEET_FRAMES = (0, 4, 8, 12, 16)


@dataclass(frozen=True)
class Settings:
    """How clips are generated; by default as users get them."""

    cfg: float = DEFAULTS_TINY.cfg
    reference_cfg: float = DEFAULTS_TINY.reference_cfg
    speed: Speed = SPEEDS["exact"]


OWN = Settings()


@dataclass(frozen=True)
class Cases:
    """Held-out scenes, and which candidate drawing each of their references is: ``targets`` ``[N R]``."""

    scenes: Scenes
    targets: Tensor


def candidate_drawings(art: Artwork, count: int) -> Tensor:
    """One drawing of each of ``count`` held-out identities, vendors alternating: indices ``[count]``."""
    identities = art.emoji.identity[art.emoji.held_out].unique()[:count]
    return art.emoji.drawings[identities, torch.arange(len(identities)) % 2]


def choose_cases(art: Artwork, candidates: Tensor, count: int, references: int) -> Cases:
    """Scenes whose references are all candidates; the first subjects are as evenly spread as chance allows.

    Left out are scenes with a reference of the other vendor's drawing: there is no telling which of both to expect.
    """
    place = torch.full((len(art.emoji.names),), -1)
    place[candidates] = torch.arange(len(candidates))
    scenes = draw_scenes(art, 40 * count, references, 4242, "held_out")
    targets = place[scenes.references.sprite]
    same = (scenes.references.sprite == scenes.sprite[:, :references]).all(1)
    fitting = ((targets >= 0).all(1) & same).nonzero().flatten()
    seen = torch.zeros(len(candidates))
    order = []
    for case in fitting.tolist():
        first = int(targets[case, 0])
        order.append((float(seen[first]), case))
        seen[first] += 1
    chosen = torch.tensor([case for _, case in sorted(order)[:count]])
    return Cases(scenes[chosen], targets[chosen])


@torch.no_grad()
def make_clips(
    models: Models, captions: Sequence[str], pictures: Sequence[Tensor], seed: int, settings: Settings = OWN
) -> Tensor:
    """Generated pixels ``[N 3 F H W]`` of the embedded model; ``pictures`` ``[N 3 1 H W]`` each."""
    references = tuple(models.vae.encode(picture) for picture in pictures)
    context = encode_text(models, list(captions))
    negative = encode_text(models, [DEFAULTS_TINY.negative]).expand_as(context)
    shape = (len(captions), 16, 5, DEFAULTS_TINY.height // 8, DEFAULTS_TINY.width // 8)
    noise = initial_noise(shape, seed).to(models.device)
    sigmas = sigma_schedule(settings.speed.steps_of(DEFAULTS_TINY.steps), DEFAULTS_TINY.shift)
    latent = sample_at(
        settings.speed,
        models.dit,
        noise,
        sigmas,
        Conditioning(context, references),
        Conditioning(negative, references),
        cfg=settings.cfg,
        reference_cfg=settings.reference_cfg,
    )
    return models.vae.decode(latent, chunk=WHOLE)


def load_exported(folder: Path, device: torch.device) -> Models:
    """kaleido-tiny with the transformer and the text encoder that ``folder`` holds, as ``TINY_FILES`` says."""
    models = load_models(Request(prompt=""), device)
    place = {"device": device, "dtype": models.dit.head.head.weight.dtype}
    dit = load_dit(folder / TINY_FILES["dit"], **place)
    return replace(models, dit=dit, text_encoder=load_text_encoder(folder / TINY_FILES["text"], **place))


def generate_all(
    models: Models, art: Artwork, scenes: Scenes, with_references: bool, settings: Settings = OWN, piece: int = PIECE
) -> tuple[Tensor, Tensor]:
    """Clips in -1..1, float16 on the CPU, ``[N 3 F H W]``, and the reference pictures ``[N R 3 H W]``."""
    clips, references = [], []
    for start in range(0, len(scenes), piece):
        part = scenes[start : start + piece]
        pictures = render_references(part, art.emoji, art.photos, art.device)
        given = pictures if with_references else []
        clips.append(make_clips(models, part.captions, given, start, settings).half().cpu())
        references.append(torch.stack([picture[:, :, 0] for picture in pictures], 1).cpu())
    return torch.cat(clips), torch.cat(references)


def found(clips: Tensor, targets: Tensor, sprites: Tensor, device: torch.device) -> float:
    """Share of clips ``[N 3 F H W]`` in which every reference is recognised among the candidates."""
    frames = clips[:, :, list(MATCHED_FRAMES)].float().transpose(1, 2)
    search = Search(frames_at_once=4 if device.type == "cpu" else 64)
    return all_found_rate(find_drawings(frames, sprites, targets.shape[1], str(device), search), targets)


def write_sheet(path: Path, clips: Tensor, references: Tensor, rows: int = 12) -> None:
    """References, then frames, one clip a row."""
    lines = [
        torch.cat([*references[i], *(clips[i, :, frame].float() for frame in SHEET_FRAMES)], dim=2)
        for i in range(min(rows, len(clips)))
    ]
    pixels = ((torch.cat(lines, dim=1).clamp(-1, 1) + 1) * 127.5).byte().permute(1, 2, 0)
    Image.fromarray(np.ascontiguousarray(pixels.numpy())).save(path)


def try_photographs(models: Models, art: Artwork, path: Path) -> None:
    """Ordinary photographs as references, which the model was never made for: a sheet to look at."""
    pixels = functional.interpolate(art.photos.pixels.float() / 127.5 - 1, scale_factor=0.5, mode="area")
    captions = [PHOTO_CAPTIONS[number % len(PHOTO_CAPTIONS)] for number in range(len(pixels))]
    write_sheet(path, make_clips(models, captions, [pixels[:, :, None]], 0).cpu(), pixels[:, None].cpu())


def measure(models: Models, art: Artwork, out: Path, count: int, settings: Settings = OWN) -> dict[str, float]:
    """All figures, in 0..1 but for the PSNR in dB and the seconds."""
    candidates = candidate_drawings(art, 200)
    sprites = art.emoji.sprites[candidates.to(art.device)]
    figures: dict[str, float] = {"candidates": len(candidates), "clips": count}
    began = time.monotonic()
    for references in (1, 2):
        cases = choose_cases(art, candidates, count, references)
        clips, pictures = generate_all(models, art, cases.scenes, True, settings)
        write_sheet(out / f"references_{references}.png", clips, pictures)
        figures[f"found_{references}"] = found(clips, cases.targets, sprites, art.device)
        true = render_clips(cases.scenes, art.emoji, art.photos, art.device)
        figures[f"ceiling_{references}"] = found(true.cpu(), cases.targets, sprites, art.device)
        if references == 1:
            figures["psnr"] = psnr(models.vae, true)
            with torch.no_grad():
                decoded = [models.vae.decode(models.vae.encode(p, WHOLE), WHOLE).cpu() for p in true.split(PIECE)]
            figures["autoencoder_1"] = found(torch.cat(decoded), cases.targets, sprites, art.device)
            clips, pictures = generate_all(models, art, cases.scenes, False, settings)
            write_sheet(out / "references_0.png", clips, pictures)
            figures["without_references"] = found(clips, cases.targets, sprites, art.device)
    figures["seconds"] = time.monotonic() - began
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with emoji.zip and photos.zip")
    parser.add_argument("out", type=Path)
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--weights", type=Path, default=ASSETS, help="folder of exported files; default: the shipped")
    parser.add_argument("--cfg", type=float, default=OWN.cfg)
    parser.add_argument("--reference-cfg", type=float, default=OWN.reference_cfg)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    models = load_exported(arguments.weights, device)
    art = load_artwork(arguments.data, device)
    settings = Settings(arguments.cfg, arguments.reference_cfg)
    figures = measure(models, art, arguments.out, arguments.clips, settings)
    try_photographs(models, art, arguments.out / "photographs.png")
    (arguments.out / "quality.json").write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
