"""Softmax attention without a mask: every token attends to every token."""

import torch.nn.functional as F
from torch import Tensor


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """``[B A N K]``, ``[B A M K]``, ``[B A M K]`` -> ``[B A N K]``, scaled by 1/sqrt(K)."""
    return F.scaled_dot_product_attention(query, key, value)


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """``[B N A*K]`` -> ``[B A N K]``."""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """``[B A N K]`` -> ``[B N A*K]``."""
    return x.transpose(1, 2).flatten(2)
