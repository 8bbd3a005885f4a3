"""A run small enough for a test: a transformer of two blocks, and a cache of a few random clips."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from kaleido_core import DiTConfig, KaleidoDiT
from training.config import Config, DataConfig, ModelConfig, OptimizerConfig, RunConfig
from training.samples import CachedSamples
from training.train import train

SIZES = DiTConfig(num_layers=2, width=32, num_heads=2, mlp_width=48, text_width=16)


def small_dit() -> KaleidoDiT:
    torch.manual_seed(5)
    return KaleidoDiT(SIZES)


def write_cache(folder: Path, count: int = 8) -> Path:
    """Clips of two sizes, with 0 to 3 references in two variants."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(3)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    for index in range(count):
        references = {
            f"reference.{place}.{variant}": draw(16, 1, 4, 4) for place in range(index % 4) for variant in range(2)
        }
        clip = {"latent": draw(16, 2, 4, 4 + 2 * (index % 2)), "context": draw(3, SIZES.text_width)}
        save_file(clip | references, folder / f"clip-{index}.safetensors")
    save_file({"context": draw(3, SIZES.text_width)}, folder / "empty.safetensors")
    return folder


def small_config(folder: Path, **sections: object) -> Config:
    """A LoRA in float32; ``sections`` take the place of the usual ones."""
    usual: dict[str, object] = {
        "run": RunConfig(str(folder / "run"), steps=6, batch=4, seed=7, log_every=1),
        "model": ModelConfig("small", base="fp32"),
        "data": DataConfig(str(folder / "cache"), reference_dropout=0.2, shuffle_references=True),
        "optimizer": OptimizerConfig(lr=1e-3, ema=0.9),
    }
    return Config(**(usual | sections))  # pyright: ignore[reportArgumentType]


def samples(config: Config) -> CachedSamples:
    return CachedSamples(config.data.cache, config.data, config.run.batch, config.run.micro_batch, config.run.seed)


def run(config: Config) -> bool:
    return train(config, samples(config), None, small_dit())
