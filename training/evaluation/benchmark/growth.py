"""Seconds over clips of different lengths and numbers of references, beside the arithmetic they hold."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from kaleido_core import DiTConfig, VideoSize
from kaleido_core.offloading.arithmetic import attention_flops, forward_flops, product_flops

from .forward import run_dit
from .measure import Bench, Cost, Note, Row, measure
from .scale import random_inputs, random_transformer, tokens_of


@dataclass(frozen=True)
class Grown(Row):
    """One length and number of references."""

    frames: int
    references: int
    tokens: int
    cost: Cost
    tflops: float  # a second


@dataclass(frozen=True)
class Deviation(Row):
    """Measured seconds over foretold ones, less 1, in percent.

    Foretold with one rate for all arithmetic, and with one for products and one for attention.
    """

    one_rate: float
    two_rates: float


@dataclass(frozen=True)
class Fit(Row):
    """Rates in TFLOP/s, and the deviations' size in percent: largest and mean."""

    products: float
    attention: float
    largest: float
    mean: float


@torch.no_grad()
def growth(bench: Bench) -> Iterator[Row]:
    """All lengths with 0 to 3 references, through some of the blocks; then how well the arithmetic foretells them."""
    scale, grown = bench.scale, []
    config = replace(scale.dit, num_layers=scale.growth_layers)
    yield Note("blocks", f"{config.num_layers} of {scale.dit.num_layers}: all blocks grow alike")
    dit = random_transformer(config, bench.device)
    for frames in scale.growth_frames:
        for references in range(4):
            size = VideoSize(frames, scale.size.height, scale.size.width)
            inputs = random_inputs(config.text_width, size, references, bench.device)
            cost = measure(lambda i=inputs: run_dit(dit, i), bench.device)
            tokens = tokens_of(size, references)
            speed = forward_flops(config, tokens) / cost.seconds / 1e12
            grown.append(Grown(f"{frames} + {references}", frames, references, tokens, cost, speed))
            yield grown[-1]
    yield from deviations(config, grown)


def deviations(config: DiTConfig, grown: Sequence[Grown]) -> Iterator[Row]:
    seconds = torch.tensor([one.cost.seconds for one in grown], dtype=torch.float64)
    each = [(product_flops(config, one.tokens), attention_flops(config, one.tokens)) for one in grown]
    work = torch.tensor(each, dtype=torch.float64)  # [n 2]
    fits = {"one rate": fit(work.sum(1, keepdim=True), seconds), "two rates": fit(work, seconds)}
    off = {name: 100 * (seconds / (work @ costs.expand(2)) - 1) for name, costs in fits.items()}
    for index, one in enumerate(grown):
        yield Deviation(one.name, off["one rate"][index].item(), off["two rates"][index].item())
    for name, costs in fits.items():
        rates = (1 / costs.expand(2) / 1e12).tolist()
        yield Fit(name, rates[0], rates[1], off[name].abs().max().item(), off[name].abs().mean().item())


def fit(work: torch.Tensor, seconds: torch.Tensor) -> torch.Tensor:
    """Seconds a unit of each kind of ``work`` ``[n k]``, by the least squares of relative deviations."""
    relative = work / seconds[:, None]
    scale = relative.mean(0)  # numbers near 1 for the solver
    ones = torch.ones(len(seconds), 1, dtype=seconds.dtype)
    return torch.linalg.lstsq(relative / scale, ones).solution[:, 0] / scale
