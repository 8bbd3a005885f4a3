"""One transformer block: self-attention over all tokens, cross-attention to the text, MLP (SPEC 3).

Without gradients its three parts write their results over their input, which is made for them and read once.
"""

import torch
from torch import Tensor, nn

from ..config import DiTConfig
from ..rowwise import BATCH_ROWS, by_rows
from .attention import Attend, attention, merge_heads, split_heads
from .layers import LayerNorm, RMSNorm, add_gated, modulated_norm, rotated_norm

Rotation = tuple[Tensor, Tensor]  # cosine and sine of every token's angles, float32 [N K/2]


class _Attention(nn.Module):
    """The projections that self- and cross-attention share; queries and keys are RMS-normalised over all heads."""

    def __init__(self, config: DiTConfig, device: torch.device | str | None, dtype: torch.dtype | None):
        super().__init__()
        self.num_heads = config.num_heads
        self.attend: Attend = attention
        width = config.width
        self.q = nn.Linear(width, width, device=device, dtype=dtype)
        self.k = nn.Linear(width, width, device=device, dtype=dtype)
        self.v = nn.Linear(width, width, device=device, dtype=dtype)
        self.o = nn.Linear(width, width, device=device, dtype=dtype)
        self.norm_q = RMSNorm(width, config.eps, device, dtype)
        self.norm_k = RMSNorm(width, config.eps, device, dtype)

    def mix(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """``[B N D]``, ``[B M D]``, ``[B M D]`` -> ``[B N D]``."""
        heads = (split_heads(x, self.num_heads) for x in (query, key, value))
        return merge_heads(self.attend(*heads))


class SelfAttention(_Attention):
    def forward(self, x: Tensor, rotation: Rotation) -> Tensor:
        key, value = rotated_norm(self.k(x), *rotation, self.norm_k.weight, self.norm_k.eps), self.v(x)

        def look(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
            query = rotated_norm(self.q(x), cos, sin, self.norm_q.weight, self.norm_q.eps)
            return self.o(self.mix(query, key, value))

        return by_rows(look, (x, *rotation), rows=BATCH_ROWS, into=x)


class CrossAttention(_Attention):
    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        key, value = self.norm_k(self.k(context)), self.v(context)

        def look(x: Tensor) -> Tensor:
            return self.o(self.mix(self.norm_q(self.q(x)), key, value))

        return by_rows(look, (x,), rows=BATCH_ROWS, into=x)


class MLP(nn.Sequential):
    """Each token alone; its hidden values are the widest of the model, so not those of all tokens at once."""

    def forward(self, x: Tensor) -> Tensor:
        return by_rows(super().forward, (x,), rows=BATCH_ROWS, into=x)


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
        self.ffn = MLP(
            nn.Linear(width, config.mlp_width, device=device, dtype=dtype),
            nn.GELU(approximate="tanh"),
            nn.Linear(config.mlp_width, width, device=device, dtype=dtype),
        )

    def forward(self, tokens: Tensor, modulation: Tensor, context: Tensor, rotation: Rotation) -> Tensor:
        """``[B N D]``, float32 ``[B 6 D]``, ``[B L D]`` -> ``[B N D]``."""
        table = (self.modulation.float() + modulation).unsqueeze(2)  # [B 6 1 D]
        shift1, scale1, gate1, shift2, scale2, gate2 = table.unbind(1)
        # Updates have no names, so that each is gone before the next.
        tokens = add_gated(tokens, self.self_attn(modulated_norm(tokens, shift1, scale1, self.eps), rotation), gate1)
        tokens = tokens + self.cross_attn(self.norm3(tokens), context)
        return add_gated(tokens, self.ffn(modulated_norm(tokens, shift2, scale2, self.eps)), gate2)
