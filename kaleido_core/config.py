"""Architectures as data. A new size is a new constant."""

from dataclasses import dataclass

from .errors import ConfigError

LATENT_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
LATENT_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip


@dataclass(frozen=True)
class DiTConfig:
    """Sizes of the video transformer (SPEC 1). ``width`` is a multiple of ``num_heads``, the head width even."""

    num_layers: int
    width: int
    num_heads: int
    mlp_width: int
    text_width: int
    latent_channels: int = 16
    patch_size: tuple[int, int, int] = (1, 2, 2)
    frequency_width: int = 256
    eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.width % self.num_heads or self.head_width % 2:
            raise ConfigError(
                f"width {self.width} does not split into {self.num_heads} heads of an even width; "
                "choose a width that is a multiple of twice the number of heads."
            )

    @property
    def head_width(self) -> int:
        return self.width // self.num_heads


@dataclass(frozen=True)
class VAEConfig:
    """Sizes of the Wan 2.1 video autoencoder (SPEC 7). ``mean`` and ``std`` normalise its latent per channel."""

    base_width: int = 96
    latent_channels: int = 16
    mean: tuple[float, ...] = LATENT_MEAN
    std: tuple[float, ...] = LATENT_STD


@dataclass(frozen=True)
class TextConfig:
    """Sizes of the UMT5 text encoder (SPEC 6)."""

    vocab_size: int
    width: int
    attention_width: int
    mlp_width: int
    num_heads: int
    num_layers: int
    num_buckets: int = 32
    max_distance: int = 128


KALEIDO_14B = DiTConfig(num_layers=40, width=5120, num_heads=40, mlp_width=13824, text_width=4096)
