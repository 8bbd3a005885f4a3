"""The attention kernels beside each other, at the shapes of a forward."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kaleido_core import DiTConfig
from kaleido_core.dit.attention import KERNELS, attend_by, fastest_kernel, kernel_works, split_heads

from .forward import in_a_row
from .measure import Bench, Cost, Note, Row, attempt, relative_error
from .scale import TEXT_ROWS, draw

CHECKED = 256  # queries whose result is compared
LEFT_OUT = ("auto", "math")  # a choice among the others; memory for every pair of tokens


@dataclass(frozen=True)
class Attended(Row):
    """``tflops`` a second; ``error``: relative L2 to float32, of some queries. The cost is of all blocks' calls."""

    keys: int
    cost: Cost
    tflops: float
    error: float


@torch.no_grad()
def attention(bench: Bench) -> Iterator[Row]:
    """Tokens to tokens, then tokens to the text, by each kernel that works here, block after block without a rest."""
    config, device = bench.scale.dit, bench.device
    if device.type == "cuda":
        yield Note("auto", fastest_kernel(device, torch.bfloat16, config.head_width))
    kernels = [kernel for kernel in KERNELS if kernel not in LEFT_OUT]
    working = [kernel for kernel in kernels if kernel_works(kernel, device, torch.bfloat16, config.head_width)]
    if missing := [kernel for kernel in kernels if kernel not in working]:
        yield Note("not installed, or not working here", ", ".join(missing))
    for keys in (bench.scale.tokens, TEXT_ROWS):
        parts = [
            split_heads(draw(1, rows, config.width, device=device, seed=seed).bfloat16(), config.num_heads)
            for seed, rows in enumerate((bench.scale.tokens, keys, keys))
        ]
        exact = in_float32(parts[0][:, :, -CHECKED:], *parts[1:])
        for kernel in working:
            yield attempt(kernel, lambda k=kernel, p=parts, e=exact: attended(k, p, e, config, device))


def attended(kernel: str, parts: Sequence[Tensor], exact: Tensor, config: DiTConfig, device: torch.device) -> Row:
    """``parts``: query, key, value ``[1 A N K]``; ``exact`` of the last queries, on the CPU."""
    attend, keys = attend_by(kernel), parts[1].shape[2]
    error = relative_error(attend(*parts)[:, :, -CHECKED:].cpu(), exact)
    cost = in_a_row(lambda: attend(*parts), config.num_layers, device)
    flops = 4.0 * parts[0].shape[2] * keys * config.width * config.num_layers
    return Attended(kernel, keys, cost, flops / cost.seconds / 1e12, error)


def in_float32(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """On the CPU, one head at a time for the sake of memory."""
    heads = zip(*(part.unbind(1) for part in (query, key, value)), strict=True)
    return torch.stack([F.scaled_dot_product_attention(q.float(), k.float(), v.float()).cpu() for q, k, v in heads], 1)
