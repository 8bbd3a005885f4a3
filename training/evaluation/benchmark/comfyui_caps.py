"""ComfyUI's own ways to run what a card cannot hold, with our positions and attention, under the caps of ``swap``."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from threading import Event, Thread
from typing import Any

import torch

from .host import about_host, allow_dynamic_vram, host_forward, host_model, open_host, our_nodes
from .measure import GIB, Bench, Cost, Note, Row, attempt, capped, keep_and_measure, settle
from .scale import random_inputs, random_transformer

PATIENCE = 8.0  # seconds: two repeats of a forward
POLL = 0.02  # seconds


@dataclass(frozen=True)
class Way:
    """``streams`` besides the card's own bring weights; ``dynamic``: as its newer versions do it by themselves."""

    name: str
    streams: int
    dynamic: bool = False


WAYS = (Way("async offload", 2), Way("no async offload", 0), Way("dynamic VRAM", 2, dynamic=True))


@dataclass(frozen=True)
class Offloaded(Row):
    """``card_gib``: the most that the card held beyond what lay there, asked of the card itself, because the host has
    allocators that torch does not know. ``over_resident``, ``equal``: beside the same with all weights there."""

    cap_gib: float | None
    card_gib: float
    cost: Cost
    over_resident: float
    equal: bool


@torch.no_grad()
def comfyui_caps(bench: Bench) -> Iterator[Row]:
    """All on the card; low-VRAM loading under hard caps; last dynamic VRAM, which is only told how much there is."""
    if bench.comfyui is None or bench.device.type != "cuda":
        yield Note("ComfyUI", "needs a card, and a checkout: give --comfyui DIR")
        return
    scale, device = bench.scale, bench.device
    weights = {name: value.cpu() for name, value in random_transformer(scale.dit, device).state_dict().items()}
    inputs = random_inputs(scale.dit.text_width, scale.size, scale.references, device)
    open_host(bench.comfyui, device)
    adapter, width = our_nodes(), scale.dit.text_width
    yield Note("ComfyUI", about_host())

    def load() -> Any:
        model = host_model(weights, width, device, offload=torch.device("cpu"))
        return adapter.with_attention(adapter.make_kaleido(model), "auto")

    settle(device)  # or what torch keeps would count as lying there
    with watched(device) as most:
        whole, cost = keep_and_measure(host_forward(load(), inputs), device, patience=PATIENCE)
    yield Offloaded("all on the card", None, most[0], cost, 1.0, True)

    def within(way: Way, cap: float) -> Row:
        reserve(way, cap, device)
        hard = nullcontext() if way.dynamic else capped(device, cap)
        with hard, watched(device) as most:
            result, found = keep_and_measure(host_forward(load(), inputs, whole=False), device, patience=PATIENCE)
        return Offloaded(way.name, cap, most[0], found, found.seconds / cost.seconds, torch.equal(result, whole))

    for way in WAYS:
        for cap in scale.caps:
            yield attempt(f"{way.name}, {cap} GiB", lambda way=way, cap=cap: within(way, cap))


def reserve(way: Way, cap: float, device: torch.device) -> None:
    """Have the host believe that others use all of the card but ``cap`` GiB, and unload what it holds."""
    management: Any = import_module("comfy.model_management")
    management.unload_all_models()
    settle(device)
    others = int(torch.cuda.get_device_properties(device).total_memory - cap * GIB)
    management.NUM_STREAMS, management.EXTRA_RESERVED_VRAM = way.streams, others
    if way.dynamic:
        allow_dynamic_vram(device, others)


@contextmanager
def watched(device: torch.device) -> Iterator[list[float]]:
    """GiB that the card holds at most while this is open, beyond what it holds now."""
    before, most, over = torch.cuda.mem_get_info(device)[0], [0.0], Event()

    def watch() -> None:
        while not over.wait(POLL):
            most[0] = max(most[0], (before - torch.cuda.mem_get_info(device)[0]) / GIB)

    thread = Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        over.set()
        thread.join()
