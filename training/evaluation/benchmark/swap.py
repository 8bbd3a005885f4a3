"""The transformer under hard caps of the card's memory, beside the same with all its blocks on the card."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from kaleido_core import block_swap
from kaleido_core.offloading.memory_plan import RESERVE, Blocks
from kaleido_core.placement import blocks_of, work_of_transformer

from .forward import run_dit
from .measure import GIB, Bench, Cost, Row, attempt, capped, keep_and_measure
from .scale import random_inputs, random_transformer

PATIENCE = 8.0  # seconds: two repeats of a forward
# What ``block_swap`` may pin, by where the weights live; its own choice is half of what is free.
PINNED_BYTES = {"pinned": 2**60, "mapped": 0}


@dataclass(frozen=True)
class Swapped(Row):
    """``resident`` of the blocks on the card. ``over_resident``: seconds over those with all; ``equal``: bit by bit.

    ``foretold_gib`` is the peak that the choice of ``resident`` assumed. ``host_gib``: the process's own main memory,
    without what is mapped from files and can be given up at any time.
    """

    cap_gib: float | None
    home: str
    resident: int
    setup_seconds: float
    cost: Cost
    over_resident: float
    equal: bool
    foretold_gib: float
    host_gib: float | None


@dataclass(frozen=True)
class Task:
    """``run(model)`` takes ``work`` bytes beside the weights; ``whole`` and ``seconds``: with all blocks there."""

    name: str
    run: Callable[[nn.Module], Tensor]
    work: float
    whole: Tensor
    seconds: float


@torch.no_grad()
def swap(bench: Bench) -> Iterator[Row]:
    """All on the card; then under each cap from pinned memory."""
    task, row, dit = whole_transformer(bench)
    yield row
    dit.cpu()
    for cap in bench.scale.caps:
        yield within(task, dit, cap, "pinned", bench.device)


def whole_transformer(bench: Bench) -> tuple[Task, Row, nn.Module]:
    """Random weights, without any cap, on the card."""
    scale, device = bench.scale, bench.device
    dit = random_transformer(scale.dit, device)
    inputs = random_inputs(scale.dit.text_width, scale.size, scale.references, device)
    work = work_of_transformer(dit, scale.size, scale.references)
    task, row = whole("transformer", dit, lambda model: run_dit(model, inputs), work, device)  # pyright: ignore
    return task, row, dit


def whole(
    name: str, model: nn.Module, run: Callable[[nn.Module], Tensor], work: float, device: torch.device
) -> tuple[Task, Row]:
    """All of ``model`` on the device, without any cap."""
    result, cost = keep_and_measure(lambda: run(model), device, patience=PATIENCE)
    blocks = blocks_of(model)
    foretold = peak_of(blocks, blocks.count, work) / GIB
    row = Swapped(name, None, "card", blocks.count, 0.0, cost, 1.0, True, foretold, host_memory())
    return Task(name, run, work, result, cost.seconds), row


def within(task: Task, model: nn.Module, cap: float, home: str, device: torch.device) -> Row:
    """``model``, whose weights are in main memory, with as many blocks resident as ``generate`` would take."""
    blocks = blocks_of(model)
    resident = blocks.resident(cap * GIB - RESERVE - task.work)

    def run() -> Row:
        began = time.perf_counter()
        with capped(device, cap), block_swap(model, resident, device, PINNED_BYTES[home]):
            setup = time.perf_counter() - began
            result, cost = keep_and_measure(lambda: task.run(model), device, patience=PATIENCE)
            host = host_memory()
        equal, foretold = torch.equal(result, task.whole), peak_of(blocks, resident, task.work) / GIB
        ratio = cost.seconds / task.seconds
        return Swapped(task.name, cap, home, resident, setup, cost, ratio, equal, foretold, host)

    return attempt(f"{task.name}, {home}, {cap} GiB", run)


def peak_of(blocks: Blocks, resident: int, work: float) -> float:
    """Bytes: all that is no block, the resident ones, two visitors, and the work."""
    return blocks.rest + resident * blocks.each + blocks.ring(resident) + work


def host_memory() -> float | None:
    """GiB of main memory that only this process can give back; None where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 / GIB for line in lines if line.startswith("RssAnon:")), None)
