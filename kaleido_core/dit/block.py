"""One transformer block: self-attention over all tokens, cross-attention to the text, MLP (SPEC 3)."""

import torch
from torch import Tensor, nn

from ..config import DiTConfig
from .attention import attention, merge_heads, split_heads
from .layers import LayerNorm, RMSNorm, add_gated, modulated_norm
from .rope import rotate_pairs

Rotation = tuple[Tensor, Tensor]  # cosine and sine of every token's angles, float32 [N K/2]


class _Attention(nn.Module):
    """The projections that self- and cross-attention share; queries and keys are RMS-normalised over all heads."""

    def __init__(self, config: DiTConfig, device: torch.device | str | None, dtype: torch.dtype | None):
        super().__init__()
        self.num_heads = config.num_heads
        width = config.width
        self.q = nn.Linear(width, width, device=device, dtype=dtype)
        self.k = nn.Linear(width, width, device=device, dtype=dtype)
        self.v = nn.Linear(width, width, device=device, dtype=dtype)
        self.o = nn.Linear(width, width, device=device, dtype=dtype)
        self.norm_q = RMSNorm(width, config.eps, device, dtype)
        self.norm_k = RMSNorm(width, config.eps, device, dtype)

    def project(self, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``[B N D]``, ``[B M D]`` -> query ``[B A N K]``, key and value ``[B A M K]``."""
        projected = self.norm_q(self.q(queries)), self.norm_k(self.k(keys)), self.v(keys)
        query, key, value = (split_heads(x, self.num_heads) for x in projected)
        return query, key, value


class SelfAttention(_Attention):
    def forward(self, x: Tensor, rotation: Rotation) -> Tensor:
        query, key, value = self.project(x, x)
        query, key = rotate_pairs(query, *rotation), rotate_pairs(key, *rotation)
        return self.o(merge_heads(attention(query, key, value)))


class CrossAttention(_Attention):
    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        return self.o(merge_heads(attention(*self.project(x, context))))


class Block(nn.Module):
    def __init__(
        self, config: DiTConfig, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        width, self.eps = config.width, config.eps
        self.modulation = nn.Parameter(torch.empty(1, 6, width, device=device, dtype=dtype))
        nn.init.normal_(self.modulation, std=width**-0.5)
        self.self_attn = SelfAttention(config, device, dtype)
        self.norm3 = LayerNorm(width, eps=config.eps, device=device, dtype=dtype)
        self.cross_attn = CrossAttention(config, device, dtype)
        self.ffn = nn.Sequential(
            nn.Linear(width, config.mlp_width, device=device, dtype=dtype),
            nn.GELU(approximate="tanh"),
            nn.Linear(config.mlp_width, width, device=device, dtype=dtype),
        )

    def forward(self, tokens: Tensor, modulation: Tensor, context: Tensor, rotation: Rotation) -> Tensor:
        """``[B N D]``, float32 ``[B 6 D]``, ``[B L D]`` -> ``[B N D]``."""
        table = (self.modulation.float() + modulation).unsqueeze(2)  # [B 6 1 D]
        shift1, scale1, gate1, shift2, scale2, gate2 = table.unbind(1)
        update = self.self_attn(modulated_norm(tokens, shift1, scale1, self.eps), rotation)
        tokens = add_gated(tokens, update, gate1)
        tokens = tokens + self.cross_attn(self.norm3(tokens), context)
        update = self.ffn(modulated_norm(tokens, shift2, scale2, self.eps))
        return add_gated(tokens, update, gate2)
