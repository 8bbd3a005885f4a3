"""WanVAE: pixels to normalised latents and back (SPEC 7)."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..config import VAEConfig
from ..errors import ShapeError, warn_once
from ..shapes import SPATIAL_STRIDE, TEMPORAL_STRIDE
from .layers import CausalConv3d, Chain, Downsample, FrameAttention, History, ResidualBlock, Upsample, head, through

MULTIPLIERS = (1, 2, 4, 4)  # of the base width, one per resolution
RESIDUAL_BLOCKS = 2  # per resolution; the decoder has one more
TEMPORAL_DOWN = (False, True, True)


def _middle(channels: int) -> Chain:
    return Chain(ResidualBlock(channels, channels), FrameAttention(channels), ResidualBlock(channels, channels))


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
        self.head = head(widths[-1], out_channels)

    def forward(self, pixels: Tensor, history: History) -> Tensor:
        return through(self.layers(), pixels, history)

    def layers(self) -> list[nn.Module]:
        """All in a row."""
        return [self.conv1, *self.downsamples, *self.middle, self.head]


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
        self.head = head(base_width, 3)

    def forward(self, latent: Tensor, history: History) -> Tensor:
        return through(self.layers(), latent, history)

    def layers(self) -> list[nn.Module]:
        """All in a row."""
        return [self.conv1, *self.middle, *self.upsamples, self.head]


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
        The pixels may lie on another device. Raises ``ShapeError`` for other chunks and for sides that are no
        multiples of 8.
        """
        history: History = {}
        parts = [self.encoder(part.to(self.conv1.weight), history) for part in chunks(encodable(pixels, chunk), chunk)]
        return self.normalise(torch.cat(parts, dim=2))

    def decode(self, latent: Tensor, chunk: int = 1, out: Tensor | None = None) -> Tensor:
        """Normalised ``[B 16 T h w]`` -> float32 ``[B 3 F 8h 8w]`` in -1..1, F = 4 (T - 1) + 1.

        ``chunk`` latent frames go through at a time after the first. The clip is written into ``out`` where that is
        given: of that shape, of any floating type, on any device. Raises ``ShapeError`` where it is not.
        """
        out = room_for_pixels(latent, out)
        end = 0
        for frames in self.decode_parts(latent, chunk):
            start, end = end, end + frames.shape[2]
            out[:, :, start:end] = frames.clamp(-1, 1)
        return out

    def decode_unclamped(self, latent: Tensor, chunk: int = 1) -> Tensor:
        """As ``decode``, without the clamp: what a training loss wants."""
        return torch.cat([frames.float() for frames in self.decode_parts(latent, chunk)], dim=2)

    def decode_parts(self, latent: Tensor, chunk: int = 1) -> Iterator[Tensor]:
        """The frames of each chunk as they come, ``[B 3 f 8h 8w]`` unclamped and in the dtype of the weights."""
        history: History = {}
        for part in chunks(self.denormalise(latent), chunk):
            yield self.decoder(part, history)

    def normalise(self, moments: Tensor) -> Tensor:
        """What the encoder gives, ``[B 32 T h w]`` -> float32 latent ``[B 16 T h w]``; its log-variance is not used."""
        mean = self.conv1(moments).chunk(2, dim=1)[0]
        return ((mean.float() - self.mean.float()) * (1.0 / self.std.float())).float()

    def denormalise(self, latent: Tensor) -> Tensor:
        """Normalised latent -> what the decoder reads, ``[B 16 T h w]`` both."""
        latent = latent.to(self.mean.device).float() / (1.0 / self.std.float()) + self.mean.float()
        return self.conv2(latent.to(self.conv2.weight))


def channels_last(vae: WanVAE) -> WanVAE:
    """The same ``vae``, its weights laid out channel by channel: the layout of tensor cores.

    The numbers are those of another order of summing. Worth it where a measurement says so: on graphics cards in half
    precision the convolutions then need no transposed copies; on the CPU it is slower.
    """
    for layer in vae.modules():
        if isinstance(layer, nn.Conv3d):
            layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last_3d)
        elif isinstance(layer, nn.Conv2d):
            layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)
    return vae


def encodable(pixels: Tensor, chunk: int) -> Tensor:
    """The first 4k + 1 frames of ``[B 3 F H W]``; what ``WanVAE.encode`` warns of and refuses, this does."""
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
    return pixels[:, :, : frames - spare]


def room_for_pixels(latent: Tensor, out: Tensor | None) -> Tensor:
    """``out`` where it can take the pixels of ``latent``, a new float32 clip where it is None."""
    batch, _, frames, height, width = latent.shape
    shape = (batch, 3, (frames - 1) * TEMPORAL_STRIDE + 1, height * SPATIAL_STRIDE, width * SPATIAL_STRIDE)
    if out is None:
        return torch.empty(shape, device=latent.device)
    if out.shape != shape or not out.is_floating_point():
        raise ShapeError(
            f"out holds {out.dtype} {list(out.shape)}; this latent decodes to floating point {list(shape)}. "
            "Make it with torch.empty of that shape, or leave it out."
        )
    return out


def chunks(x: Tensor, size: int) -> list[Tensor]:
    """The first frame alone, then ``size`` at a time; with room for all, the clip whole."""
    return [x] if x.shape[2] <= size else [x[:, :, :1], *x[:, :, 1:].split(size, dim=2)]
