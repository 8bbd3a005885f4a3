"""Seconds and memory of a call, and the rows of results that parts give out."""

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path

import torch
from torch import Tensor

from .scale import Scale

GIB = 2**30


@dataclass(frozen=True)
class Row:
    """One line of a table; kinds of rows add their columns."""

    name: str


@dataclass(frozen=True)
class Note(Row):
    """Words instead of figures, such as why something could not be measured."""

    text: str


@dataclass(frozen=True)
class Cost:
    """Median, least and most seconds of a warm call, and those of the first one (0 where that was not timed).

    GiB at most: of all that was allocated on the card, and of what the call added to what lay there before.
    """

    seconds: float
    least: float
    most: float
    first: float
    peak_gib: float
    added_gib: float


@dataclass(frozen=True)
class Bench:
    """What a part may know: sizes, device, and a ComfyUI checkout, if one was named."""

    scale: Scale
    device: torch.device
    comfyui: Path | None = None


Part = Callable[[Bench], Iterator[Row]]


def measure(call: Callable[[], object], device: torch.device, repeats: int = 3, patience: float = math.inf) -> Cost:
    """The cost of ``call`` once it is warm; no further repeat begins after ``patience`` seconds."""
    first = seconds_of(call, device)
    return timed(call, device, repeats, patience, first)


def keep_and_measure(
    call: Callable[[], Tensor], device: torch.device, repeats: int = 3, patience: float = math.inf
) -> tuple[Tensor, Cost]:
    """As ``measure``, and the first result, on the CPU."""
    began = time.perf_counter()
    kept = call().cpu()
    return kept, timed(call, device, repeats, patience, time.perf_counter() - began)


def timed(
    call: Callable[[], object], device: torch.device, repeats: int, patience: float = math.inf, first: float = 0.0
) -> Cost:
    """The cost of a ``call`` that is warm already."""
    settle(device)
    on_card, times = device.type == "cuda", []
    before = torch.cuda.memory_allocated(device) if on_card else 0
    while len(times) < repeats and sum(times) <= patience:
        times.append(seconds_of(call, device))
    peak = torch.cuda.max_memory_allocated(device) if on_card else 0
    return Cost(statistics.median(times), min(times), max(times), first, peak / GIB, (peak - before) / GIB)


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    began = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - began


def attempt(name: str, call: Callable[[], Row]) -> Row:
    """What ``call`` gives, or why it failed: one way that fails must not cost the others' figures."""
    try:
        return call()
    except Exception as problem:
        return failure(name, problem)


def failure(name: str, problem: Exception) -> Note:
    return Note(name, f"{type(problem).__name__}: {' '.join(str(problem).split())[:300]}")


@contextmanager
def capped(device: torch.device, gib: float) -> Iterator[None]:
    """While open, a CUDA device gives this process ``gib`` GiB and not a byte more. Other devices have no such cap."""
    if device.type != "cuda":
        yield
        return
    settle(device)
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, gib * GIB / total), device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


def settle(device: torch.device) -> None:
    """Let go of all that is not in use, and count peaks from here."""
    gc.collect()
    _wait(device)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def relative_error(found: Tensor, exact: Tensor) -> float:
    """L2 of the difference over L2 of ``exact``."""
    return ((found.float() - exact.float()).norm() / exact.float().norm()).item()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def columns(row: object) -> Iterator[tuple[str, object]]:
    """Names and values of a row, those of its cost among them."""
    assert is_dataclass(row)
    for field in fields(row):
        value = getattr(row, field.name)
        if is_dataclass(value):
            yield from columns(value)
        else:
            yield field.name, value


def line(row: Row) -> str:
    """A line of a Markdown table."""
    return "| " + " | ".join(_text(value) for _, value in columns(row)) + " |"


def header(row: Row) -> str:
    """The head of the table that ``row`` belongs to."""
    names = [name.replace("_", " ") for name, _ in columns(row)]
    return "| " + " | ".join(names) + " |\n|" + "---|" * len(names)


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, tuple):
        return " x ".join(map(str, value))
    return "" if value is None else str(value)
