"""How long the work takes: measured on an H200, scaled to other cards."""

from dataclasses import dataclass

from ..config import DiTConfig
from .arithmetic import attention_flops, product_flops


@dataclass(frozen=True)
class Card:
    """``flops``: products a second in bfloat16 with float32 sums, dense, as its maker gives them; ``link``: bytes a
    second from main memory. ``measured``: whether seconds are, or an estimate by these two figures."""

    name: str
    flops: float
    link: float
    measured: bool = False


H200 = Card("H200", 989e12, 55e9, measured=True)
CARDS = (
    H200,
    Card("RTX 5090", 209e12, 50e9),
    Card("RTX 4090", 165e12, 25e9),
    Card("RTX 3090", 71e12, 25e9),
    Card("RTX 4060 Ti", 44e12, 13e9),
    Card("RTX 3060", 25e12, 25e9),
)
DISK = 2e9  # bytes a second of a file that main memory cannot keep; an assumption

# H200, bfloat16, 14B, 43,008 tokens: the linear layers alone reach 740 TFLOP/s and the attention 625; a forward takes
# 4.15 s, a little more than both. In eight bits it takes 3.51 s (fp8) or 3.60 s (int8), the gain of linear layers.
PRODUCTS, ATTENTION, REST, EIGHT_BIT = 740e12, 625e12, 1.08, 0.6
# Seconds for each pixel of each frame, channels last, 81 frames of 512x896 in bfloat16: decoding whole 1.17 s, in tiles
# to main memory 1.50 s, encoding 0.75 s. Float32 is an estimate, by what it costs ComfyUI's autoencoder.
DECODE, DECODE_TILES, ENCODE, FLOAT32 = 3.15e-8, 4.03e-8, 2.0e-8, 1.75


def forward_seconds(config: DiTConfig, tokens: int, eight_bit: bool, card: Card) -> float:
    """Of one forward whose weights are at hand."""
    products = product_seconds(product_flops(config, tokens), card) * (EIGHT_BIT if eight_bit else 1)
    return REST * (products + attention_flops(config, tokens) / ATTENTION * H200.flops / card.flops)


def product_seconds(flops: float, card: Card) -> float:
    """Of linear layers alone."""
    return flops / PRODUCTS * H200.flops / card.flops


def pixel_seconds(each: float, pixels: int, vae_bytes: int, card: Card) -> float:
    """Of the autoencoder: ``each`` is one of the constants above, ``pixels`` those of all frames."""
    return each * pixels * (1 if vae_bytes == 2 else FLOAT32) * H200.flops / card.flops


def duration(seconds: float) -> str:
    """For people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
