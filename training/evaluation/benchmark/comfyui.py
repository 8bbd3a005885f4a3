"""ComfyUI's own Wan model, then the same as our nodes make it, beside ours with the same weights."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from .forward import run_dit
from .host import about_host, host_forward, host_model, open_host, our_nodes
from .measure import Bench, Cost, Note, Row, attempt, keep_and_measure, relative_error
from .scale import random_inputs, random_transformer

PATIENCE = 10.0  # seconds: two repeats of the host's own, three of the others


@dataclass(frozen=True)
class Beside(Row):
    """``over_ours``: seconds over those of ours; ``error``: relative L2 to ours, of what computes the same."""

    cost: Cost
    over_ours: float = 1.0
    error: float | None = None


@torch.no_grad()
def comfyui(bench: Bench) -> Iterator[Row]:
    """All weights on the card; whole forwards with references, as the host's samplers ask for them."""
    if bench.comfyui is None:
        yield Note("ComfyUI", "was not named; give --comfyui DIR")
        return
    scale, device = bench.scale, bench.device
    open_host(bench.comfyui, device)
    adapter = our_nodes()
    yield Note("ComfyUI", about_host())
    inputs = random_inputs(scale.dit.text_width, scale.size, scale.references, device)
    dit = random_transformer(scale.dit, device)
    ours, cost = keep_and_measure(partial(run_dit, dit, inputs), device, patience=PATIENCE)
    yield Beside("ours", cost)
    stock = host_model(dit.state_dict(), scale.dit.text_width, device)
    del dit
    kinds: dict[str, Callable[[], Any]] = {
        "ComfyUI's own, without our nodes": lambda: stock,
        "ComfyUI, our positions": lambda: adapter.make_kaleido(stock),
        "ComfyUI, our positions and attention": lambda: adapter.with_attention(adapter.make_kaleido(stock), "auto"),
    }
    for name, make in kinds.items():

        def run(name: str = name, make: Callable[[], Any] = make) -> Row:
            model = make()
            same = model is not stock  # without our positions it is another function
            result, theirs = keep_and_measure(host_forward(model, inputs), device, patience=PATIENCE)
            error = relative_error(result, ours) if same else None
            return Beside(name, theirs, theirs.seconds / cost.seconds, error)

        yield attempt(name, run)
