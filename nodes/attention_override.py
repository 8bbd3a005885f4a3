"""The core's attention in the place of the host's: no line of it knows the host's code.

The host gives every attention call of a model, and its own function with it, to ``optimized_attention_override`` of
``transformer_options``, if that is there (all supported releases). Calls that are not plain attention go on to what was
there before, exactly as they came.
"""

import functools
import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..kaleido_core.checkpoints.sizes import HEAD_WIDTH
from ..kaleido_core.dit.attention import (
    KERNELS,
    Attend,
    attend_by,
    fastest_kernel,
    kernel_works,
    merge_heads,
    split_heads,
)
from ..kaleido_core.errors import ConfigError

logger = logging.getLogger("kaleido.nodes")

OVERRIDE = "optimized_attention_override"  # the host's name
ASIDE = {"transformer_options", "_inside_attn_wrapper", "low_precision_attention"}  # say nothing of the result
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
# PyTorch's choice of kernel belongs to the whole process; the host may run a model in one thread for each card.
ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class AttentionOverride:
    """What the host calls: with its own function, then with that one's arguments."""

    kernel: str
    attend: Attend
    previous: Callable[..., Tensor] | None = None  # another pack's

    def __call__(self, host_attention: Callable[..., Tensor], *args: Any, **named: Any) -> Tensor:
        result = self.compute(*args, **named)
        if result is not None:
            return result
        if self.previous is not None:
            return self.previous(host_attention, *args, **named)
        return host_attention(*args, **named)

    def compute(  # named as the host does
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        heads: int,
        mask: Tensor | None = None,
        attn_precision: torch.dtype | None = None,
        skip_reshape: bool = False,
        skip_output_reshape: bool = False,
        **others: Any,
    ) -> Tensor | None:
        """``[B N A*K]``, or ``[B A N K]`` with ``skip_reshape``; ``skip_output_reshape`` tells the same of the result.

        None for a call that is not Kaleido's plain attention: with a mask, a scale, heads of other widths or numbers.
        """
        shape = [len(q), heads, HEAD_WIDTH] if skip_reshape else [len(q), heads * HEAD_WIDTH]
        if any([*x.shape[:-2], x.shape[-1]] != shape or x.dtype != q.dtype for x in (q, k, v)):
            return None
        if mask is not None or attn_precision not in (None, q.dtype) or q.dtype not in DTYPES or self._forbids(others):
            return None
        compiling = torch.compiler.is_compiling()
        with nullcontext() if compiling else ONE_AT_A_TIME:
            if not compiling and not _takes_over(self.kernel, q.device, q.dtype):
                return None
            if not skip_reshape:
                q, k, v = (split_heads(x, heads) for x in (q, k, v))
            result = self.attend(q, k, v)
        return result if skip_output_reshape else merge_heads(result)

    def _forbids(self, others: Mapping[str, Any]) -> bool:
        """Whether further arguments, of later releases too, ask for what this does not do."""
        if self.kernel == "sage" and others.get("low_precision_attention") is False:
            return True
        return any(not (value is None or value is False) for name, value in others.items() if name not in ASIDE)


def override_attention(kernel: str, previous: Callable[..., Tensor] | None) -> AttentionOverride:
    """Raises ``ConfigError`` for a ``kernel`` that is not installed."""
    if isinstance(previous, AttentionOverride):
        previous = previous.previous
    return AttentionOverride(kernel, attend_by(kernel), previous)


@functools.cache
def _takes_over(kernel: str, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the host's attention gives way there; logged once. Raises ``ConfigError`` if a chosen kernel fails."""
    if kernel == "auto":
        # Of other devices the host knows better; and "math" needs memory for every pair of tokens.
        on_card = device.type == "cuda" and fastest_kernel(device, dtype, HEAD_WIDTH) != "math"
        takes_over = on_card or device.type == "cpu"
        logger.info("attention of the model on %s: %s", device, "the fastest" if takes_over else "ComfyUI's own")
        return takes_over
    working = [name for name in KERNELS[1:] if kernel_works(name, device, dtype, HEAD_WIDTH)]
    if kernel not in working:
        raise ConfigError(
            f"attention {kernel} does not work on {device} in {str(dtype).removeprefix('torch.')}; "
            f"{', '.join(working)} would. Choose one of these, or auto, in Kaleido Attention."
        )
    logger.info("attention of the model on %s: %s", device, kernel)
    return True
