"""UMT5 encoder: token ids to context rows (SPEC 6)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import TextConfig

EPS = 1e-6


class T5Norm(nn.Module):
    """RMS norm with float32 statistics."""

    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.rsqrt(x.float().square().mean(-1, keepdim=True) + EPS)
        return (x * scale).to(self.weight.dtype) * self.weight


class RelativeBias(nn.Module):
    """A learned attention bias per head and distance bucket; each layer has its own."""

    def __init__(self, config: TextConfig):
        super().__init__()
        self.num_buckets, self.max_distance = config.num_buckets, config.max_distance
        self.embedding = nn.Embedding(config.num_buckets, config.num_heads)

    def forward(self, length: int) -> Tensor:
        """Bias ``[1 A L L]`` for queries (rows) and keys (columns)."""
        index = torch.arange(length, device=self.embedding.weight.device)
        buckets = distance_buckets(index[None, :] - index[:, None], self.num_buckets, self.max_distance)
        return self.embedding(buckets).permute(2, 0, 1).unsqueeze(0)


def distance_buckets(distance: Tensor, num_buckets: int, max_distance: int) -> Tensor:
    """Key index minus query index -> bucket: exact when near, logarithmic when far, one half for keys ahead."""
    half = num_buckets // 2
    exact = half // 2
    size = distance.abs()
    ratio = (size.clamp(min=1).float() / exact).log() / math.log(max_distance / exact)
    far = (exact + (ratio * (half - exact)).long()).clamp(max=half - 1)
    return (distance > 0).long() * half + torch.where(size < exact, size, far)


class T5Attention(nn.Module):
    """Bidirectional attention without scaling or biases."""

    def __init__(self, config: TextConfig):
        super().__init__()
        self.num_heads = config.num_heads
        self.q = nn.Linear(config.width, config.attention_width, bias=False)
        self.k = nn.Linear(config.width, config.attention_width, bias=False)
        self.v = nn.Linear(config.width, config.attention_width, bias=False)
        self.o = nn.Linear(config.attention_width, config.width, bias=False)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """``[B L D]`` and the additive bias ``[B A L L]``, masked keys at the dtype's minimum -> ``[B L D]``."""
        query, key, value = (
            layer(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v)
        )
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype), scale=1.0)
        return self.o(attended.transpose(1, 2).flatten(2))


class GatedMLP(nn.Module):
    def __init__(self, config: TextConfig):
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(config.width, config.mlp_width, bias=False), nn.GELU(approximate="tanh"))
        self.fc1 = nn.Linear(config.width, config.mlp_width, bias=False)
        self.fc2 = nn.Linear(config.mlp_width, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.fc1(x) * self.gate(x))


class T5Block(nn.Module):
    def __init__(self, config: TextConfig):
        super().__init__()
        self.norm1, self.norm2 = T5Norm(config.width), T5Norm(config.width)
        self.attn, self.ffn = T5Attention(config), GatedMLP(config)
        self.pos_embedding = RelativeBias(config)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        bias = self.pos_embedding(x.shape[1])
        bias = bias.masked_fill(~mask[:, None, None, :], torch.finfo(bias.dtype).min)
        x = x + self.attn(self.norm1(x), bias)
        return x + self.ffn(self.norm2(x))


class UMT5Encoder(nn.Module):
    """The encoder half of UMT5; parameter names are the Wan file's."""

    def __init__(self, config: TextConfig):
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.width)
        self.blocks = nn.ModuleList(T5Block(config) for _ in range(config.num_layers))
        self.norm = T5Norm(config.width)

    def forward(self, token_ids: Tensor, mask: Tensor) -> Tensor:
        """Token ids ``[B L]`` and their mask (1 = real) -> context ``[B L D]``, padded rows exactly zero."""
        mask = mask.bool()
        x = self.token_embedding(token_ids)
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x) * mask[..., None]
