"""Attention as the host offers it: one function, before which an override of the model's options may step."""

import functools
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

INSIDE = "_inside_attn_wrapper"


def overridable(attention: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @functools.wraps(attention)
    def call(*args: Any, **named: Any) -> Tensor:
        override = (named.get("transformer_options") or {}).get("optimized_attention_override")
        if INSIDE in named or override is None:
            return attention(*args, **named)
        return override(attention, *args, **{**named, INSIDE: True})

    return call


@overridable
def attention_pytorch(
    q, k, v, heads, mask=None, attn_precision=None, skip_reshape=False, skip_output_reshape=False, **kwargs
) -> Tensor:
    if not skip_reshape:
        q, k, v = (x.reshape(*x.shape[:2], heads, -1).transpose(1, 2) for x in (q, k, v))
    known = {name: kwargs[name] for name in ("scale", "enable_gqa") if name in kwargs}
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, **known)
    return out if skip_output_reshape else out.transpose(1, 2).flatten(2)


optimized_attention = attention_pytorch
