"""Sizes and settings of kaleido-tiny, in one place."""

from dataclasses import dataclass

from kaleido_core.config import DiTConfig, TextConfig, VAEConfig
from kaleido_core.request import DEFAULTS_TINY

FRAMES, SIDE = DEFAULTS_TINY.frames, DEFAULTS_TINY.height  # of a training clip
WHOLE = 4 * FRAMES  # frames the autoencoder takes in one pass: a clip at once, which is what a GPU likes

TINY_DIT = DiTConfig(num_layers=10, width=256, num_heads=2, mlp_width=704, text_width=128)
TINY_TEXT = TextConfig(vocab_size=2000, width=128, attention_width=128, mlp_width=256, num_heads=4, num_layers=2)
# Trained on raw latents; the export folds their statistics so that the standard Wan constants fit.
TINY_VAE = VAEConfig(base_width=16, mean=(0.0,) * 16, std=(1.0,) * 16)


@dataclass(frozen=True)
class VAERecipe:
    """``batch`` clips a process, cut to ``crop`` pixels until ``full_from`` of the run; then fewer, whole clips."""

    steps: int
    seed: int = 1
    batch: int = 32
    crop: int = 64
    full_from: float = 0.85
    lr: float = 1e-3
    warmup: int = 100
    cooldown: float = 0.6  # share of the steps in which the rate falls to zero
    noise: float = 0.05  # added to latents of unit variance, so that the decoder forgives small errors
    l1_weight: float = 0.2
    motion_weight: float = 4.0  # how much more an error counts where the clip moves: subjects are small
    anchor_weight: float = 0.3
    ema: float = 0.999


@dataclass(frozen=True)
class DiTRecipe:
    """Clips come in chunks: rendered and encoded once, seen ``reuse`` times each with new noise."""

    steps: int
    seed: int = 2
    batch: int = 512  # a process
    chunk_batches: tuple[int, int, int, int] = (1, 8, 18, 5)  # batches a chunk with 0, 1, 2, 3 references
    reuse: int = 30
    lr: float = 1.2e-3
    weight_decay: float = 0.01
    warmup: int = 300
    cooldown: float = 0.9
    motion_weight: float = 12.0  # as the autoencoder's: subjects are small, and identity lies in them
    caption_dropout: float = 0.1
    ema: float = 0.999

    @property
    def steps_per_chunk(self) -> int:
        return sum(self.chunk_batches) * self.reuse


def learning_rate(step: int, peak: float, steps: int, warmup: int, cooldown: float) -> float:
    """Rise over ``warmup`` steps, stay at ``peak``, fall to zero over the last ``cooldown`` share of ``steps``."""
    rise = min(1.0, (step + 1) / warmup)
    fall = min(1.0, (steps - step) / max(1.0, cooldown * steps))
    return peak * rise * fall
