"""How many parameters a transformer has, and how many multiplications and additions one forward takes."""

from math import prod

from ..config import DiTConfig


def parameters_of(config: DiTConfig) -> int:
    """Of ``KaleidoDiT(config)``."""
    width, patch = config.width, config.latent_channels * prod(config.patch_size)
    embeddings = (
        (patch * width + width)
        + (config.text_width * width + width + width * width + width)
        + (config.frequency_width * width + width + width * width + width)
        + (6 * width * width + 6 * width)
    )
    return config.num_layers * block_parameters(config) + embeddings + (width * patch + patch + 2 * width)


def block_parameters(config: DiTConfig) -> int:
    """Of one block."""
    width = config.width
    biases = 8 * width + config.mlp_width + width
    return product_parameters(config) + biases + 12 * width  # four norms of q and k, norm3 and the modulation


def product_parameters(config: DiTConfig) -> int:
    """Of one block, those that it multiplies with: what eight bits make smaller."""
    return 8 * config.width**2 + 2 * config.width * config.mlp_width


def product_flops(config: DiTConfig, tokens: int, text_rows: int = 512) -> float:
    """Of the linear layers in one forward."""
    width = config.width
    rows = 2 * tokens * (6 * width * width + 2 * width * config.mlp_width) + 4 * text_rows * width * width
    return float(config.num_layers * rows)


def attention_flops(config: DiTConfig, tokens: int, text_rows: int = 512) -> float:
    """Of the attention, to all tokens and to the text, in one forward."""
    return float(config.num_layers * 4 * tokens * (tokens + text_rows) * config.width)


def forward_flops(config: DiTConfig, tokens: int, text_rows: int = 512) -> float:
    """Of one forward."""
    return product_flops(config, tokens, text_rows) + attention_flops(config, tokens, text_rows)
