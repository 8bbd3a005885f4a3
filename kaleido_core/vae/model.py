"""WanVAE: pixels to normalised latents and back (SPEC 7)."""

import torch
from torch import Tensor, nn

from ..config import VAEConfig
from ..errors import ShapeError, warn_once
from ..shapes import SPATIAL_STRIDE, TEMPORAL_STRIDE
from .layers import CausalConv3d, Chain, ChannelNorm, Downsample, FrameAttention, History, ResidualBlock, Upsample

MULTIPLIERS = (1, 2, 4, 4)  # of the base width, one per resolution
RESIDUAL_BLOCKS = 2  # per resolution; the decoder has one more
TEMPORAL_DOWN = (False, True, True)


def _middle(channels: int) -> Chain:
    return Chain(ResidualBlock(channels, channels), FrameAttention(channels), ResidualBlock(channels, channels))


def _head(channels: int, out_channels: int) -> Chain:
    return Chain(ChannelNorm(channels), nn.SiLU(), CausalConv3d(channels, out_channels, 3))


class Encoder(nn.Module):
    def __init__(self, base_width: int, out_channels: int):
        super().__init__()
        widths = [base_width * multiplier for multiplier in (1, *MULTIPLIERS)]
        self.conv1 = CausalConv3d(3, base_width, 3)
        layers: list[nn.Module] = []
        for level, (width, next_width) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            layers.append(ResidualBlock(width, next_width))
            layers += [ResidualBlock(next_width, next_width) for _ in range(RESIDUAL_BLOCKS - 1)]
            if level < len(TEMPORAL_DOWN):
                layers.append(Downsample(next_width, TEMPORAL_DOWN[level]))
        self.downsamples = Chain(*layers)
        self.middle = _middle(widths[-1])
        self.head = _head(widths[-1], out_channels)

    def forward(self, pixels: Tensor, history: History) -> Tensor:
        x = self.downsamples(self.conv1(pixels, history), history)
        return self.head(self.middle(x, history), history)


class Decoder(nn.Module):
    def __init__(self, base_width: int, in_channels: int):
        super().__init__()
        widths = [base_width * multiplier for multiplier in (MULTIPLIERS[-1], *reversed(MULTIPLIERS))]
        self.conv1 = CausalConv3d(in_channels, widths[0], 3)
        self.middle = _middle(widths[0])
        layers: list[nn.Module] = []
        for level, (width, next_width) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            layers.append(ResidualBlock(width if level == 0 else width // 2, next_width))  # Upsample halved it
            layers += [ResidualBlock(next_width, next_width) for _ in range(RESIDUAL_BLOCKS)]
            if level < len(TEMPORAL_DOWN):
                layers.append(Upsample(next_width, TEMPORAL_DOWN[-1 - level]))
        self.upsamples = Chain(*layers)
        self.head = _head(base_width, 3)

    def forward(self, latent: Tensor, history: History) -> Tensor:
        x = self.middle(self.conv1(latent, history), history)
        return self.head(self.upsamples(x, history), history)


class WanVAE(nn.Module):
    """The Wan 2.1 autoencoder; parameter names are the Wan file's. It computes in the dtype of its weights."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: VAEConfig = VAEConfig()):  # noqa: B008 - frozen
        super().__init__()
        self.config = config
        channels = config.latent_channels
        self.encoder = Encoder(config.base_width, 2 * channels)
        self.conv1 = nn.Conv3d(2 * channels, 2 * channels, 1)
        self.conv2 = nn.Conv3d(channels, channels, 1)
        self.decoder = Decoder(config.base_width, channels)
        for name, values in (("mean", config.mean), ("std", config.std)):
            # Not in the file: constants of the architecture.
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1, 1), persistent=False)

    def encode(self, pixels: Tensor, chunk: int = TEMPORAL_STRIDE) -> Tensor:
        """``[B 3 F H W]`` in -1..1 -> normalised float32 latent ``[B 16 T H/8 W/8]``, F = 4 (T - 1) + 1.

        Frames beyond the last 4k + 1 are left out, as the official code does, with one warning. ``chunk`` frames
        (a multiple of 4) go through at a time after the first: more is faster and takes more memory, numbers stay.
        Raises ``ShapeError`` for other chunks and for sides that are no multiples of 8.
        """
        if chunk < 1 or chunk % TEMPORAL_STRIDE:
            raise ShapeError(f"Chunks of {chunk} frames; the autoencoder folds {TEMPORAL_STRIDE}. Use 4, 8, 12, ...")
        frames, height, width = pixels.shape[2:]
        if height % SPATIAL_STRIDE or width % SPATIAL_STRIDE or not frames:
            raise ShapeError(
                f"Pixels of {frames} frames, {height} x {width}: the autoencoder needs a frame and sides that are "
                f"multiples of {SPATIAL_STRIDE}. Resize or crop first."
            )
        spare = (frames - 1) % TEMPORAL_STRIDE
        if spare:
            warn_once("vae", f"{frames} frames: the last {spare} are left out; clips have 4k + 1 frames.")
        history: History = {}
        parts = [
            self.encoder(part, history) for part in _chunks(pixels[:, :, : frames - spare].to(self.conv1.weight), chunk)
        ]
        mean = self.conv1(torch.cat(parts, dim=2)).chunk(2, dim=1)[0]  # the log-variance is not used
        return ((mean.float() - self.mean.float()) * (1.0 / self.std.float())).float()

    def decode(self, latent: Tensor, chunk: int = 1) -> Tensor:
        """Normalised ``[B 16 T h w]`` -> float32 ``[B 3 F 8h 8w]`` in -1..1, F = 4 (T - 1) + 1.

        ``chunk`` latent frames go through at a time after the first.
        """
        return self.decode_unclamped(latent, chunk).clamp(-1, 1)

    def decode_unclamped(self, latent: Tensor, chunk: int = 1) -> Tensor:
        """As ``decode``, without the clamp: what a training loss wants."""
        history: History = {}
        latent = latent.float() / (1.0 / self.std.float()) + self.mean.float()
        latent = self.conv2(latent.to(self.conv2.weight))
        return torch.cat([self.decoder(part, history).float() for part in _chunks(latent, chunk)], dim=2)


def _chunks(x: Tensor, size: int) -> list[Tensor]:
    """The first frame alone, then ``size`` at a time; with room for all, the clip whole."""
    return [x] if x.shape[2] <= size else [x[:, :, :1], *x[:, :, 1:].split(size, dim=2)]
