"""Chunks of encoded clips, drawn from a seed, and the batches a chunk is seen in."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kaleido_core import WanVAE
from kaleido_core.text.tokenizer import Tokenizer

from .anchor import moving_parts, to_cells
from .data import PIECE, Artwork, draw_scenes
from .recipe import WHOLE, DiTRecipe
from .render import render_clips, render_references

TokenIds = tuple[Tensor, Tensor]  # ids and mask, [B L] each


@dataclass(frozen=True)
class Clips:
    """Encoded clips with one number of references: bfloat16 latents ``[B 16 ...]`` and the captions' tokens.

    ``weight`` ``[B 1 T h w]``, of mean 1 over a clip: how much a cell's error counts.
    """

    latent: Tensor
    references: tuple[Tensor, ...]
    tokens: TokenIds
    weight: Tensor

    def __len__(self) -> int:
        return len(self.latent)

    def __getitem__(self, index: Tensor) -> "Clips":
        ids, mask = self.tokens
        references = tuple(reference[index] for reference in self.references)
        return Clips(self.latent[index], references, (ids[index], mask[index]), self.weight[index])


def cell_weights(pixels: Tensor, motion_weight: float) -> Tensor:
    """What moves counts more: ``[B 3 F H W]`` in -1..1 -> ``[B 1 T H/8 W/8]``, of mean 1 over each clip."""
    moving = to_cells(moving_parts(pixels).expand_as(pixels)).mean(-1)[:, None]
    weight = 1 + motion_weight * moving
    return weight / weight.mean((1, 2, 3, 4), keepdim=True)


@torch.no_grad()
def encode_clips(
    art: Artwork, vae: WanVAE, tokenizer: Tokenizer, count: int, references: int, seed: int, motion_weight: float
) -> Clips:
    """Render ``count`` training scenes and encode them; each reference image is a clip of one frame."""
    scenes = draw_scenes(art, count, references, seed)
    latents: list[Tensor] = []
    weights: list[Tensor] = []
    encoded: list[list[Tensor]] = [[] for _ in range(references)]
    for start in range(0, count, PIECE):
        part = scenes[start : start + PIECE]
        clips = render_clips(part, art.emoji, art.photos, art.device)
        pictures = render_references(part, art.emoji, art.photos, art.device)
        weights.append(cell_weights(clips, motion_weight).bfloat16())
        latents.append(vae.encode(clips, chunk=WHOLE).bfloat16())
        for place, pixels in zip(encoded, pictures, strict=True):
            place.append(vae.encode(pixels).bfloat16())
    ids, mask = tokenizer(list(scenes.captions))
    tokens = ids.to(art.device), mask.to(art.device)
    return Clips(torch.cat(latents), tuple(torch.cat(place) for place in encoded), tokens, torch.cat(weights))


def encode_chunk(
    art: Artwork, vae: WanVAE, tokenizer: Tokenizer, recipe: DiTRecipe, chunk: int, rank: int
) -> list[Clips]:
    """A chunk's clips with 0, 1, 2, ... references; every chunk and rank has its own."""
    seed = ((recipe.seed * 100_000 + chunk) * 64 + rank) * 4
    return [
        encode_clips(art, vae, tokenizer, size * recipe.batch, references, seed + references, recipe.motion_weight)
        for references, size in enumerate(recipe.chunk_batches)
        if size
    ]


def shuffled_batches(pools: list[Clips], recipe: DiTRecipe, chunk: int) -> Iterator[Clips]:
    """All batches of a chunk: each pool shuffled ``reuse`` times, the pools interleaved, alike on every rank."""
    random = np.random.default_rng((recipe.seed, chunk, 1))
    sizes = [len(pool) // recipe.batch * recipe.reuse for pool in pools]
    order = np.repeat(np.arange(len(pools)), sizes)
    random.shuffle(order)
    queues = []
    for pool in pools:
        index = np.concatenate([random.permutation(len(pool)) for _ in range(recipe.reuse)])
        queues.append(iter(torch.from_numpy(index).split(recipe.batch)))
    for which in order:
        yield pools[which][next(queues[which]).to(pools[which].latent.device)]
