"""The sizes that are measured, and random weights and inputs of those sizes."""

from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from kaleido_core import KALEIDO_14B, DiTConfig, KaleidoDiT, TextConfig, UMT5Encoder, VAEConfig, VideoSize, WanVAE
from kaleido_core.quantization.quantize import FORMATS

Module = TypeVar("Module", bound=nn.Module)

TEXT_ROWS = 512
UMT5_XXL = TextConfig(256384, width=4096, attention_width=4096, mlp_width=10240, num_heads=64, num_layers=24)


@dataclass(frozen=True)
class Scale:
    """What is measured: models, clips, forms of the transformer, caps in GiB, lengths to grow through."""

    name: str
    dit: DiTConfig
    vae: VAEConfig
    text: TextConfig
    size: VideoSize
    large: VideoSize
    large_cap: float  # for ``large`` in the autoencoder
    caps: tuple[float, ...]  # for the transformer and the text encoder, the hardest first
    growth_frames: tuple[int, ...]
    growth_layers: int  # of the transformer: all grow alike, and fewer take less time
    references: int = 3
    forms: tuple[str, ...] = (*FORMATS, "compiled")  # of the transformer, besides the exact one

    @property
    def tokens(self) -> int:
        return tokens_of(self.size, self.references)


FULL = Scale(
    name="full",
    dit=KALEIDO_14B,
    vae=VAEConfig(),
    text=UMT5_XXL,
    size=VideoSize(81, 512, 896),
    large=VideoSize(81, 720, 1280),
    large_cap=4,
    caps=(6, 8, 12),
    growth_frames=(9, 17, 33, 49, 81, 121),
    growth_layers=8,
)
TINY = Scale(
    name="tiny",
    dit=DiTConfig(num_layers=4, width=256, num_heads=2, mlp_width=704, text_width=128),
    vae=VAEConfig(base_width=8),
    text=TextConfig(500, width=64, attention_width=64, mlp_width=128, num_heads=4, num_layers=4),
    size=VideoSize(5, 32, 48),
    large=VideoSize(5, 48, 64),
    large_cap=1.26,
    caps=(1.252, 1.255, 2),  # RESERVE of each is kept free
    growth_frames=(5, 9),
    growth_layers=2,
)
SCALES = {scale.name: scale for scale in (FULL, TINY)}


@dataclass(frozen=True)
class Inputs:
    """One forward's: latent ``[1 16 T H W]``, sigma ``[1]``, context ``[1 L D]``, references ``[1 16 1 H W]``."""

    latent: Tensor
    sigma: Tensor
    context: Tensor
    references: tuple[Tensor, ...]


def tokens_of(size: VideoSize, references: int) -> int:
    return (size.latent_frames + references) * (size.height // 16) * (size.width // 16)


def random_transformer(config: DiTConfig, device: torch.device) -> KaleidoDiT:
    """In bfloat16, drawn on ``device``."""
    with torch.device("meta"):
        dit = KaleidoDiT(config, dtype=torch.bfloat16)
    return _drawn(dit.to_empty(device=device))


def random_text_encoder(config: TextConfig, device: torch.device) -> UMT5Encoder:
    with torch.device("meta"):
        encoder = UMT5Encoder(config).bfloat16()
    return _drawn(encoder.to_empty(device=device))


def random_vae(config: VAEConfig, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> WanVAE:
    return _drawn(WanVAE(config).to(device, dtype))


def _drawn(module: Module) -> Module:
    """Random weights of a size that keeps activations near 1; those of norms near 1."""
    generator = torch.Generator(next(module.parameters()).device).manual_seed(0)
    for name, value in module.eval().requires_grad_(False).named_parameters():
        gain = name.endswith("gamma") or ("norm" in name and name.endswith("weight"))
        spread = 1 / value[0].numel() ** 0.5 if value.ndim > 1 and not gain and "modulation" not in name else 0.1
        value.normal_(0, spread, generator=generator)
        if gain:
            value.add_(1)
    return module


def draw(*shape: int, device: torch.device, seed: int = 1) -> Tensor:
    """Float32 of normal distribution."""
    return torch.randn(*shape, generator=torch.Generator(device).manual_seed(seed), device=device)


def random_inputs(text_width: int, size: VideoSize, references: int, device: torch.device) -> Inputs:
    shape = size.latent_shape()
    pictures = draw(references, 1, shape[1], 1, *shape[3:], device=device, seed=2).unbind()
    context = draw(1, TEXT_ROWS, text_width, device=device, seed=3).bfloat16()
    return Inputs(draw(*shape, device=device), torch.full((1,), 0.7, device=device), context, pictures)
