"""One forward of the transformer, in every form, beside what its products and its attention alone would take."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import linear

from kaleido_core import Conditioning, KaleidoDiT
from kaleido_core.dit.attention import attention, split_heads
from kaleido_core.dit.compiled import compile_blocks
from kaleido_core.quantization.quantize import quantize
from kaleido_core.sampling.guidance import two_passes

from .measure import Bench, Cost, Row, attempt, keep_and_measure, relative_error, settle, timed
from .scale import TEXT_ROWS, Inputs, Scale, draw, random_inputs, random_transformer

EXACT, LIMIT, PAIR = "exact bf16", "limit", "CFG pair, exact bf16"
PATIENCE = 6.0  # seconds: two repeats of a forward, three of a quick one


@dataclass(frozen=True)
class Forward(Row):
    """``over_limit``: seconds over those of the limit; ``error``: relative L2 to the exact result."""

    cost: Cost
    over_limit: float | None = None
    error: float | None = None


@torch.no_grad()
def forward(bench: Bench) -> Iterator[Row]:
    """The limit and its parts; then the exact forward, both branches of guidance, eight bits, compiled blocks."""
    scale, device = bench.scale, bench.device
    parts = []
    for part in limit_parts(scale, device):
        parts.append(part)
        yield part
    limit = summed([part.cost for part in parts])
    yield Forward(LIMIT, limit, 1.0)
    inputs = random_inputs(scale.dit.text_width, scale.size, scale.references, device)
    exact, cost, pair = exact_forward(scale, inputs, device)
    yield Forward(EXACT, cost, cost.seconds / limit.seconds)
    yield Forward(PAIR, pair, pair.seconds / (2 * limit.seconds))
    for form in scale.forms:

        def run(form: str = form) -> Row:
            velocity, cost = forward_as(form, scale, inputs, device)
            return Forward(form, cost, cost.seconds / limit.seconds, relative_error(velocity, exact))

        yield attempt(form, run)


def limit_parts(scale: Scale, device: torch.device) -> Iterator[Forward]:
    """What the matrix products and the attention of a forward take alone, each as often in a row as a forward asks.

    A card that works for seconds is slower than in a burst: it heats up.
    """
    config, tokens = scale.dit, scale.tokens
    width, hidden = config.width, config.mlp_width

    def numbers(*shape: int) -> Tensor:
        return draw(*shape, device=device).bfloat16()

    def product(rows: int, into: int, out: int) -> Callable[[], object]:
        x, weight, bias = numbers(rows, into), numbers(out, into), numbers(out)
        return lambda: linear(x, weight, bias)

    def look(rows: int) -> Callable[[], object]:
        query, key, value = (split_heads(numbers(1, n, width), config.num_heads) for n in (tokens, rows, rows))
        return lambda: attention(query, key, value)

    parts = [  # name, how to prepare one of it, how many in a block
        ("linear", lambda: product(tokens, width, width), 6),
        ("MLP in", lambda: product(tokens, width, hidden), 1),
        ("MLP out", lambda: product(tokens, hidden, width), 1),
        ("text", lambda: product(TEXT_ROWS, width, width), 2),
        ("attention", lambda: look(tokens), 1),
        ("attention to text", lambda: look(TEXT_ROWS), 1),
    ]
    for name, prepare, count in parts:
        yield Forward(f"{LIMIT}: {name}", in_a_row(prepare(), config.num_layers * count, device))


def in_a_row(call: Callable[[], object], count: int, device: torch.device) -> Cost:
    """The cost of ``count`` calls without a rest."""

    def calls() -> None:
        for _ in range(count):
            call()

    began = time.perf_counter()
    call()
    return timed(calls, device, repeats=3, patience=PATIENCE, first=time.perf_counter() - began)


def summed(costs: list[Cost]) -> Cost:
    """Of calls one after the other."""
    seconds, least, most = (sum(getattr(cost, name) for cost in costs) for name in ("seconds", "least", "most"))
    return Cost(seconds, least, most, 0.0, 0.0, 0.0)


def exact_forward(scale: Scale, inputs: Inputs, device: torch.device) -> tuple[Tensor, Cost, Cost]:
    """The velocity, on the CPU, its cost, and that of both branches of guidance."""
    settle(device)
    dit = random_transformer(scale.dit, device)
    exact, cost = keep_and_measure(lambda: run_dit(dit, inputs), device)
    return exact, cost, timed(lambda: guided(dit, inputs), device, repeats=2)


def forward_as(form: str, scale: Scale, inputs: Inputs, device: torch.device) -> tuple[Tensor, Cost]:
    """The velocity of a model in one form, on the CPU, and its cost."""
    settle(device)
    dit = random_transformer(scale.dit, device)
    if form == "compiled":
        compile_blocks(dit, device)
    else:
        quantize(dit, form)
    return keep_and_measure(lambda: run_dit(dit, inputs), device, patience=PATIENCE)


def run_dit(dit: KaleidoDiT, inputs: Inputs) -> Tensor:
    return dit(inputs.latent, inputs.sigma, inputs.context, inputs.references)


def guided(dit: KaleidoDiT, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Cond and uncond of one step, as ``sample`` runs them."""
    cond = Conditioning(inputs.context, inputs.references)
    return two_passes(dit, inputs.latent, inputs.sigma, cond, replace(cond, context=inputs.context.flip(1)))
