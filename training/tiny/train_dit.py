"""Train the tiny transformer and its text encoder together.

``[torchrun --nproc-per-node N -m] training.tiny.train_dit DATA RUN --vae FILE --steps N [--compile]``. It goes on from
``RUN/dit.pt`` where that exists, with the very data and noise it would have seen; ``--seconds`` stops it early.
``--weights FOLDER`` begins with weights that were exported, and with new optimizers and other data.
"""

import argparse
import itertools
import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from kaleido_core import KaleidoDiT, UMT5Encoder, WanVAE, load_dit, load_text_encoder, load_vae
from kaleido_core.checkpoints.load import TINY_FILES, load_tokenizer
from kaleido_core.config import DiTConfig, TextConfig
from kaleido_core.generate import TINY_CONTEXT_ROWS
from kaleido_core.text.encoder import RelativeBias, T5Attention
from kaleido_core.text.tokenizer import Tokenizer
from kaleido_core.vae.model import channels_last
from training.step import Batch, drop_text, sample_sigma, shift_sigma, squared_errors

from .clips import Clips, TokenIds, encode_chunk, shuffled_batches
from .data import Artwork, load_artwork
from .muon import BatchedMuon
from .ranks import Ranks, agree, average_gradients, join, leave
from .recipe import TINY_DIT, TINY_TEXT, DiTRecipe, learning_rate
from .run_state import Log, RunState, begin, update, update_ema


class Trainee(nn.Module):
    """The transformer and the text encoder that learn together; the head starts at zero."""

    def __init__(self, dit: DiTConfig = TINY_DIT, text: TextConfig = TINY_TEXT):
        super().__init__()
        self.dit, self.text = KaleidoDiT(dit), UMT5Encoder(text)
        nn.init.zeros_(self.dit.head.head.weight)
        for part in self.text.modules():
            if isinstance(part, T5Attention):  # it does not scale its products, so its queries start small
                nn.init.normal_(part.q.weight, std=(text.width * text.attention_width // text.num_heads) ** -0.5)
            elif isinstance(part, RelativeBias):
                nn.init.zeros_(part.embedding.weight)


def start_from(trainee: Trainee, folder: Path) -> None:
    """Take over the weights that an earlier run exported."""
    trainee.dit.load_state_dict(load_dit(folder / TINY_FILES["dit"], dtype=torch.float32).state_dict())
    trainee.text.load_state_dict(load_text_encoder(folder / TINY_FILES["text"], dtype=torch.float32).state_dict())


@dataclass(frozen=True)
class Material:
    """What a run reads besides its own weights. ``blank`` are the tokens of an empty caption, ``[1 L]``."""

    art: Artwork
    vae: WanVAE
    tokenizer: Tokenizer
    blank: TokenIds


def load_material(data: Path, vae: str | Path, device: torch.device) -> Material:
    tokenizer = load_tokenizer(data / "spiece.model")
    tokenizer.length = TINY_CONTEXT_ROWS
    ids, mask = tokenizer([""])
    on_card = device.type == "cuda"
    encoder = load_vae(vae, device=device, dtype=torch.bfloat16 if on_card else torch.float32)
    if on_card:
        channels_last(encoder)
    return Material(load_artwork(data, device), encoder, tokenizer, (ids.to(device), mask.to(device)))


def make_optimizers(trainee: Trainee, recipe: DiTRecipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the transformer's blocks, AdamW for all else, at one learning rate."""
    matrices = [value for value in trainee.dit.blocks.parameters() if value.ndim == 2]
    chosen = {id(value) for value in matrices}
    others = [value for value in trainee.parameters() if id(value) not in chosen]
    decay = recipe.weight_decay
    return [
        BatchedMuon(matrices, recipe.lr, decay),
        torch.optim.AdamW(others, lr=recipe.lr, betas=(0.9, 0.99), weight_decay=decay, fused=True),
    ]


def step_losses(trainee: Trainee, clips: Clips, blank: TokenIds, recipe: DiTRecipe, seed: int) -> tuple[Tensor, Tensor]:
    """Losses ``[B]`` and the sigmas ``[B]`` they were taken at; all chance comes from ``seed``."""
    device = clips.latent.device
    generator = torch.Generator(device).manual_seed(seed)
    # The captions are tokens already, so the rule is asked which of them it would blank.
    words = drop_text(["keep"] * len(clips), recipe.caption_dropout, np.random.default_rng(seed))
    keep = torch.tensor([word == "keep" for word in words], device=device)[:, None]
    ids, mask = (torch.where(keep, own, empty) for own, empty in zip(clips.tokens, blank, strict=True))
    latent = clips.latent.float()
    sigma = shift_sigma(sample_sigma(len(clips), generator), latent.shape[-2:])
    noise = torch.randn(latent.shape, generator=generator, device=device)
    batch = Batch(latent, trainee.text(ids, mask), tuple(reference.float() for reference in clips.references))
    errors = squared_errors(trainee.dit, batch, noise, sigma)
    return (clips.weight * errors).flatten(1).mean(1), sigma


def train_step(state: RunState, clips: Clips, blank: TokenIds, recipe: DiTRecipe, ranks: Ranks) -> dict[str, float]:
    """One update of ``state``; returns what the log wants to know, as tensors not yet waited for."""
    trainee, device = state.model, clips.latent.device
    assert isinstance(trainee, Trainee)
    rate = learning_rate(state.step, recipe.lr, recipe.steps, recipe.warmup, recipe.cooldown)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        seed = (recipe.seed * 10_000_000 + state.step) * 64 + ranks.index
        losses, sigma = step_losses(trainee, clips, blank, recipe, seed)
    trainee.zero_grad(set_to_none=True)
    losses.mean().backward()
    parameters = list(trainee.parameters())
    average_gradients(parameters, ranks)
    norm = update(state, parameters, rate)
    update_ema(state, recipe.ema)
    if state.step % 50:
        return {}
    low, high = losses[sigma < 0.5].mean().item(), losses[sigma >= 0.5].mean().item()
    return {"loss": losses.mean().item(), "low": low, "high": high, "norm": norm.item(), "lr": rate}


def train(
    trainee: Trainee,
    recipe: DiTRecipe,
    material: Material,
    run: Path,
    ranks: Ranks,
    seconds: float = float("inf"),
) -> RunState:
    """Run to the recipe's last step, or for ``seconds``; the state is saved every 500 steps and at the end."""
    log = Log(run / "dit.jsonl")
    state = begin(trainee, make_optimizers(trainee, recipe), f"{recipe}, {ranks.count} processes", run / "dit.pt")
    deadline = time.monotonic() + seconds
    in_time = True
    while in_time and state.step < recipe.steps:
        chunk, done = divmod(state.step, recipe.steps_per_chunk)
        pools = encode_chunk(material.art, material.vae, material.tokenizer, recipe, chunk, ranks.index)
        if ranks.first:
            log.write(step=state.step, chunk=chunk)
        for clips in itertools.islice(shuffled_batches(pools, recipe, chunk), done, None):
            values = train_step(state, clips, material.blank, recipe, ranks)
            if values and ranks.first:
                log.write(step=state.step, references=len(clips.references), **values)
            in_time = state.step % 10 > 0 or agree(time.monotonic() < deadline, ranks)
            if not in_time or state.step >= recipe.steps:
                break
            if ranks.first and state.step % 500 == 0:
                state.save(run / "dit.pt")
    if ranks.first:
        state.save(run / "dit.pt")
    return state


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with emoji.zip, photos.zip and spiece.model")
    parser.add_argument("run", type=Path)
    parser.add_argument("--vae", required=True, help="the exported autoencoder")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--compile", action="store_true", help="compile each block; faster after a minute")
    parser.add_argument("--weights", type=Path, help="folder of exported files, such as kaleido_core/assets")
    parser.add_argument("--seed", type=int, default=DiTRecipe.seed, help="of the data; another one for another run")
    parser.add_argument("--batch", type=int, default=DiTRecipe.batch, help="clips a step and process")
    parser.add_argument("--blind", action="store_true", help="no references at all: plain text to video")
    arguments = parser.parse_args()
    ranks, recipe = join(), DiTRecipe(arguments.steps, seed=arguments.seed, batch=arguments.batch)
    if arguments.blind:
        recipe = replace(recipe, chunk_batches=(sum(recipe.chunk_batches), 0, 0, 0))
    torch.manual_seed(recipe.seed)
    trainee = Trainee()
    if arguments.weights:
        start_from(trainee, arguments.weights)
    trainee.to(ranks.device)
    if arguments.compile:
        for block in trainee.dit.blocks:
            block.compile(dynamic=False)
    torch.backends.cudnn.benchmark = True
    material = load_material(arguments.data, arguments.vae, ranks.device)
    train(trainee, recipe, material, arguments.run, ranks, arguments.seconds)
    leave(ranks)


if __name__ == "__main__":
    main()
