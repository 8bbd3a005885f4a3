"""What both trainers draw from: the artwork, and scenes of the recipe's size."""

from dataclasses import dataclass
from pathlib import Path

import torch

from .emoji import EmojiSet, load_emoji
from .photos import PhotoSet, load_photos
from .recipe import FRAMES, SIDE
from .scene import Scenes, Split, sample_scenes

PIECE = 64  # clips rendered at a time


@dataclass(frozen=True)
class Artwork:
    """Drawings and photographs, on the device that renders."""

    emoji: EmojiSet
    photos: PhotoSet
    device: torch.device


def load_artwork(folder: Path, device: torch.device) -> Artwork:
    return Artwork(load_emoji(folder / "emoji.zip", device), load_photos(folder / "photos.zip", device), device)


def draw_scenes(art: Artwork, count: int, references: int, seed: int, split: Split = "train") -> Scenes:
    return sample_scenes(art.emoji, count, references, seed, split, frames=FRAMES, size=SIDE)
