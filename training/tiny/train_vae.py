"""Train the tiny autoencoder: ``[torchrun --nproc-per-node N -m] training.tiny.train_vae DATA RUN --steps N``.

It goes on from ``RUN/vae.pt`` where that exists; with ``--seconds`` it stops early, with a checkpoint.
"""

import argparse
import logging
import time
from pathlib import Path

import torch
from torch import Tensor

from kaleido_core import WanVAE

from .anchor import Anchor, fit_anchor, moving_parts
from .data import Artwork, draw_scenes, load_artwork
from .ranks import Ranks, agree, average_gradients, join, leave
from .recipe import SIDE, TINY_VAE, WHOLE, VAERecipe, learning_rate
from .render import render_clips
from .run_state import Log, begin, update, update_ema


def step_seed(recipe: VAERecipe, ranks: Ranks, step: int) -> int:
    return (recipe.seed * 10_000_000 + step) * 64 + ranks.index


def clip_batch(art: Artwork, recipe: VAERecipe, step: int, seed: int) -> Tensor:
    """Pixels ``[B 3 F H W]`` in -1..1, drawn from ``seed`` alone; ``step`` tells whether clips are whole yet."""
    full = step >= recipe.full_from * recipe.steps
    count = max(1, recipe.batch * recipe.crop**2 // SIDE**2) if full else recipe.batch
    clips = render_clips(draw_scenes(art, count, 1 + step % 3, seed), art.emoji, art.photos, art.device)
    return clips if full else random_crops(clips, recipe.crop, seed)


def random_crops(clips: Tensor, side: int, seed: int) -> Tensor:
    """One square of ``side`` pixels from each clip, at its own place."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.randint(0, clips.shape[-1] - side + 1, (len(clips), 2), generator=generator).tolist()
    return torch.stack([clip[..., y : y + side, x : x + side] for clip, (y, x) in zip(clips, corners, strict=True)])


def reconstruction_loss(vae: WanVAE, anchor: Anchor, pixels: Tensor, recipe: VAERecipe, seed: int) -> Tensor:
    """Squared and absolute error of the decoded clip, and the latent's distance from its anchor."""
    latent = vae.encode(pixels, chunk=WHOLE)
    generator = torch.Generator(pixels.device).manual_seed(seed)
    noise = torch.randn(latent.shape, generator=generator, device=pixels.device)
    error = vae.decode_unclamped(latent + recipe.noise * noise, chunk=WHOLE) - pixels
    weight = 1 + recipe.motion_weight * moving_parts(pixels)
    strayed = (latent - anchor(pixels)).square().mean()
    return (weight * (error.square() + recipe.l1_weight * error.abs())).mean() + recipe.anchor_weight * strayed


@torch.no_grad()
def psnr(vae: WanVAE, clips: Tensor, piece: int = 8) -> float:
    """Mean peak signal-to-noise ratio in dB of decoded clips ``[B 3 F H W]`` in -1..1."""
    values = []
    for part in clips.split(piece):
        error = (vae.decode(vae.encode(part, chunk=WHOLE), chunk=WHOLE) - part).square().flatten(1).mean(1)
        values.append(10 * torch.log10(4 / error))
    return torch.cat(values).mean().item()


def train(vae: WanVAE, recipe: VAERecipe, art: Artwork, run: Path, ranks: Ranks, seconds: float = float("inf")) -> None:
    """Run to the recipe's last step, or for ``seconds``."""
    device = art.device
    torch.backends.cudnn.benchmark = True
    parameters = list(vae.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=recipe.lr, betas=(0.9, 0.95), weight_decay=0.0)
    log = Log(run / "vae.jsonl")
    state = begin(vae, [optimizer], f"{recipe}, {ranks.count} processes", run / "vae.pt")
    anchor = fit_anchor(art, recipe.motion_weight)
    held_out = render_clips(draw_scenes(art, 32, 1, 999, "held_out"), art.emoji, art.photos, device)
    deadline = time.monotonic() + seconds
    while state.step < recipe.steps and agree(time.monotonic() < deadline, ranks):
        rate = learning_rate(state.step, recipe.lr, recipe.steps, recipe.warmup, recipe.cooldown)
        seed = step_seed(recipe, ranks, state.step)
        pixels = clip_batch(art, recipe, state.step, seed)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = reconstruction_loss(vae, anchor, pixels, recipe, seed)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        average_gradients(parameters, ranks)
        norm = update(state, parameters, rate)
        update_ema(state, recipe.ema)
        if ranks.first and state.step % 50 == 0:
            log.write(step=state.step, loss=loss.item(), norm=norm.item(), lr=rate)
        if ranks.first and state.step % 1000 == 0:
            log.write(step=state.step, psnr=psnr(vae, held_out))
            state.save(run / "vae.pt")
    if ranks.first:
        state.save(run / "vae.pt")
        average = WanVAE(TINY_VAE).to(device)
        average.load_state_dict(state.ema)
        log.write(step=state.step, psnr=psnr(average, held_out), average=True)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with emoji.zip and photos.zip")
    parser.add_argument("run", type=Path)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    arguments = parser.parse_args()
    ranks, recipe = join(), VAERecipe(arguments.steps)
    torch.manual_seed(recipe.seed)
    vae = WanVAE(TINY_VAE).to(ranks.device)
    train(vae, recipe, load_artwork(arguments.data, ranks.device), arguments.run, ranks, arguments.seconds)
    leave(ranks)


if __name__ == "__main__":
    main()
