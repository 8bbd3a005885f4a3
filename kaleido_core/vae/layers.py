"""Layers of the video autoencoder that carry their past from chunk to chunk (SPEC 7).

Every streamed layer is called as ``layer(x, history)``. A clip starts with an empty history; feeding it frame chunk by
frame chunk gives the same numbers as feeding it whole. A chunk that starts a clip may hold any number of frames.
"""

import functools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..errors import first_line, warn_once

History = dict[nn.Module, Tensor]
Keep = Callable[[Tensor, nn.Module, int], Tensor]  # what is wanted of the result of a layer, the how-manieth from 1
LOOK_BACK = 2  # frames that a kernel of three sees beside the present one
PIECE_PIXELS = 512 * 896  # that the finest layers see at once at least: enough to keep a GPU busy
PIECE_FRAMES = 2  # at least: each piece copies as many frames of its past


class Streamed(nn.Module):
    """A layer that remembers frames between chunks."""


class Chain(nn.Sequential, Streamed):
    """Layers in a row; the history goes to those that stream."""

    def forward(self, x: Tensor, history: History) -> Tensor:
        return through(list(self), x, history)


def through(layers: Sequence[nn.Module], x: Tensor, history: History, keep: Keep | None = None) -> Tensor:
    """``x`` through the layers in a row; what lies between two layers is freed as soon as the second has read it.

    Those that see all pixels get a few frames of a chunk at a time: as exact and as fast, in half the memory.
    """
    fine = finest(layers)
    for at, layer in enumerate(layers[: fine.start], start=1):
        x = _apply(layer, x, history, keep, at)
    if fine:
        parts = []
        frames = piece_frames(full_size(layers[fine.start], x.shape[0] * x.shape[-2] * x.shape[-1]))
        for part in x.split(frames, dim=2):
            for at in fine:
                part = _apply(layers[at], part, history, keep, at + 1)
            parts.append(part)
        x = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
        del parts, part
    for at, layer in enumerate(layers[fine.stop :], start=fine.stop + 1):
        x = _apply(layer, x, history, keep, at)
    return x


def _apply(layer: nn.Module, x: Tensor, history: History, keep: Keep | None, at: int) -> Tensor:
    x = layer(x, history) if isinstance(layer, Streamed) else layer(x)
    return x if keep is None else keep(x, layer, at)


def finest(layers: Sequence[nn.Module]) -> range:
    """Which of the layers work at full resolution, with the one that leads away from it or to it."""
    for index, layer in enumerate(layers):
        if isinstance(layer, Downsample | Upsample) and layer.time_conv is None:
            return range(index + 1) if isinstance(layer, Downsample) else range(index, len(layers))
    return range(0)


def piece_frames(pixels: int) -> int:
    """How many frames of so many pixels the finest layers get at once."""
    return max(PIECE_FRAMES, PIECE_PIXELS // pixels)


def full_size(first: nn.Module, cells: int) -> int:
    """Pixels of a frame at full resolution, of which the ``first`` of the finest layers sees so many ``cells``."""
    return 4 * cells if isinstance(first, Upsample) else cells


class CausalConv3d(nn.Conv3d, Streamed):
    """A 3-D convolution that looks only back in time: the last frames before the chunk, or zeros."""

    def __init__(self, channels: int, out_channels: int, kernel: int | tuple[int, int, int]):
        t, h, w = (kernel,) * 3 if isinstance(kernel, int) else kernel
        super().__init__(channels, out_channels, (t, h, w), padding=(0, h // 2, w // 2))

    def forward(self, x: Tensor, history: History) -> Tensor:
        lead = self.kernel_size[0] - 1
        if lead:
            x = _behind(history.get(self), x, lead)
            history[self] = x[:, :, -lead:].clone()  # a view would keep the whole chunk alive
        return super().forward(x)


class ChannelNorm(nn.Module):
    """L2-normalise over channels, then scale by sqrt(C) * gamma; ``[B C ...]`` with ``spatial_axes`` axes behind C."""

    def __init__(self, channels: int, spatial_axes: int = 3):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *(1,) * spatial_axes))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor(x) * self.gamma

    def factor(self, x: Tensor) -> Tensor:
        """``[B 1 ...]``: sqrt(C) over the length of x. Small, so that x itself is gone through once."""
        return x.shape[1] ** 0.5 / torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp_min(1e-12)


class NormSiLU(ChannelNorm, Streamed):
    """Normalise, SiLU, and put the last two frames of the chunk before in front: what a causal convolution reads.

    ``[B C T H W]`` -> ``[B C 2+T H W]``; a clip begins with two frames of zeros. The past is kept here and not by the
    convolution so that its input is written once, where it is read.
    """

    def forward(self, x: Tensor, history: History) -> Tensor:
        past = history.get(self)
        if torch.is_grad_enabled() and (x.requires_grad or self.gamma.requires_grad):
            frames = _behind(past, F.silu(super().forward(x)), LOOK_BACK)
            history[self] = frames[:, :, -LOOK_BACK:].clone()
            return frames
        frames = self._written(x, past)
        # Into the old one's memory: a second one beside it would raise the peak.
        history[self] = frames[:, :, -LOOK_BACK:].clone() if past is None else past.copy_(frames[:, :, -LOOK_BACK:])
        return frames

    def _written(self, x: Tensor, past: Tensor | None) -> Tensor:
        """The same numbers in one buffer, without gradients."""
        batch, channels, frames, height, width = x.shape
        layout = torch.channels_last_3d if _is_channels_last(x) else torch.contiguous_format
        shape = (batch, channels, LOOK_BACK + frames, height, width)
        buffer = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)
        before, now = buffer[:, :, :LOOK_BACK], buffer[:, :, LOOK_BACK:]
        _ = before.zero_() if past is None else before.copy_(past)
        norm_silu = fused_norm_silu(x.device, x.dtype) if x.is_cuda and _is_channels_last(x) else None
        if norm_silu:
            norm_silu(x, self.gamma, now)
        else:
            torch.mul(x, self.factor(x), out=now)
            F.silu(now.mul_(self.gamma), inplace=True)
        return buffer


@functools.cache
def fused_norm_silu(device: torch.device, dtype: torch.dtype) -> Callable[[Tensor, Tensor, Tensor], None] | None:
    """The kernel for a graphics card, proven there once; None where it cannot be had, which is said once."""
    x = torch.linspace(-1, 1, 64, dtype=dtype, device=device).view(1, 4, 1, 4, 4)
    x = x.contiguous(memory_format=torch.channels_last_3d)
    gamma, made = torch.ones(4, dtype=dtype, device=device), torch.empty_like(x)
    try:
        from .norm_silu import norm_silu

        norm_silu(x, gamma, made)
        torch.testing.assert_close(made, F.silu(2 * F.normalize(x.float(), dim=1)).to(dtype))
    except torch.OutOfMemoryError:
        raise  # says nothing of the kernel
    except Exception as error:  # no Triton, no toolchain, a card or a type it cannot compile for
        warn_once("vae", f"The autoencoder goes without its kernel, a tenth slower: {first_line(error)}")
        return None
    return norm_silu


class ResidualBlock(Streamed):
    def __init__(self, channels: int, out_channels: int):
        super().__init__()
        # The file counts SiLU and dropout as layers of their own.
        self.residual = Chain(
            NormSiLU(channels), nn.Identity(), _after_norm(channels, out_channels),
            NormSiLU(out_channels), nn.Identity(), nn.Identity(), _after_norm(out_channels, out_channels),
        )  # fmt: skip
        self.shortcut = CausalConv3d(channels, out_channels, 1) if channels != out_channels else None

    def forward(self, x: Tensor, history: History) -> Tensor:
        residual = self.residual(x, history)
        residual += x if self.shortcut is None else self.shortcut(x, history)
        return residual


def head(channels: int, out_channels: int) -> Chain:
    """The last layers of the encoder and of the decoder."""
    return Chain(NormSiLU(channels), nn.Identity(), _after_norm(channels, out_channels))


def _after_norm(channels: int, out_channels: int) -> nn.Conv3d:
    """A causal convolution whose past ``NormSiLU`` has put in front."""
    return nn.Conv3d(channels, out_channels, LOOK_BACK + 1, padding=(0, 1, 1))


class FrameAttention(nn.Module):
    """Single-head attention inside each frame."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = ChannelNorm(channels, spatial_axes=2)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        frames = rearrange(x, "b c t h w -> (b t) c h w")
        # Fused attention reads channels that lie together; without it there is a matrix of [HW HW].
        query, key, value = rearrange(self.to_qkv(self.norm(frames)), "n (p c) h w -> p n 1 (h w) c", p=3).contiguous()
        attended = F.scaled_dot_product_attention(query, key, value)
        attended = rearrange(attended, "n 1 (h w) c -> n c h w", h=x.shape[3])
        return x + rearrange(self.proj(attended), "(b t) c h w -> b c t h w", t=x.shape[2])


class Downsample(Streamed):
    """Halve height and width; with ``temporal`` also the frames after the clip's first."""

    def __init__(self, channels: int, temporal: bool):
        super().__init__()
        self.resample = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(channels, channels, 3, stride=2))
        self.time_conv = nn.Conv3d(channels, channels, (3, 1, 1), stride=(2, 1, 1)) if temporal else None

    def forward(self, x: Tensor, history: History) -> Tensor:
        x = per_frame(self.resample, x)
        if self.time_conv is None:
            return x
        past, history[self] = history.get(self), x[:, :, -1:].clone()
        if past is not None:
            return self.time_conv(torch.cat([past, x], dim=2))
        if x.shape[2] == 1:
            return x
        return torch.cat([x[:, :, :1], self.time_conv(x)], dim=2)


class Upsample(Streamed):
    """Double height and width and halve the channels; with ``temporal`` double the frames after the clip's first.

    The temporal convolution never sees the first frame: for it the clip begins at the second (SPEC 7).
    """

    def __init__(self, channels: int, temporal: bool):
        super().__init__()
        self.resample = nn.Sequential(
            nn.Upsample(scale_factor=2.0, mode="nearest-exact"), nn.Conv2d(channels, channels // 2, 3, padding=1)
        )
        self.time_conv = CausalConv3d(channels, 2 * channels, (3, 1, 1)) if temporal else None

    def forward(self, x: Tensor, history: History) -> Tensor:
        if self.time_conv is not None:
            x = self._double_frames(x, history)
        return per_frame(self.resample, x)

    def _double_frames(self, x: Tensor, history: History) -> Tensor:
        first = x[:, :, : 0 if self in history else 1]
        history[self] = x.new_empty(0)  # only marks that the clip has begun
        rest = x[:, :, first.shape[2] :]
        if rest.shape[2]:
            assert self.time_conv is not None
            rest = rearrange(self.time_conv(rest, history), "b (p c) t h w -> b c (t p) h w", p=2)
        return torch.cat([first, rest], dim=2)


def per_frame(layer: nn.Module, x: Tensor) -> Tensor:
    """Run an image layer on every frame of ``[B C T H W]``."""
    return rearrange(layer(rearrange(x, "b c t h w -> (b t) c h w")), "(b t) c h w -> b c t h w", b=x.shape[0])


def _behind(past: Tensor | None, x: Tensor, lead: int) -> Tensor:
    """``x`` behind its past, or behind ``lead`` frames of zeros where the clip begins."""
    return F.pad(x, (0, 0, 0, 0, lead, 0)) if past is None else torch.cat([past, x], dim=2)


def _is_channels_last(x: Tensor) -> bool:
    return x.stride(1) == 1 and x.shape[1] > 1
