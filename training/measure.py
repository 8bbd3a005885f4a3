"""What a step costs: seconds, share of the card's arithmetic (MFU), memory. Random weights and samples, real steps.

``python -m training.measure OUT --config training/configs/14b_lora_24gb.toml [--cap 24] [--set section.key=value]``.
``--cap GIB`` refuses the process more than such a card has. Each call adds to ``OUT/measure.json`` and prints a table.
Under torchrun the cards share the step as in training; memory is then the first one's.
"""

import argparse
import copy
import json
import logging
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from kaleido_core import KALEIDO_14B, DiTConfig, KaleidoDiT, VideoSize
from kaleido_core.offloading.arithmetic import forward_flops

from .batches import Sample, load_step
from .checkpoint import Progress
from .config import Config
from .config_file import read_config
from .data.frames import read_sizes
from .distributed import Ranks, check_batch, joined
from .evaluation.benchmark.measure import GIB, measure
from .evaluation.benchmark.scale import TEXT_ROWS, TINY, random_transformer
from .metrics import Losses
from .optim import Average, make_optimizer
from .trainee import trainee_at_work
from .update import take_step

CONTEXT = 0.75 * GIB  # of a card, that the driver and its libraries take beside torch
REFERENCES = 3
ALLOCATOR = "expandable_segments:True"  # without it, a nearly full card breaks into pieces too small to use


@dataclass(frozen=True)
class Row:
    """A measured step. ``peak_gib`` is what tensors took, ``reserved_gib`` with what the allocator held back.

    ``mfu`` is the share of ``peak_tflops`` (a measured bfloat16 product) of all ``cards`` that the model's arithmetic
    makes up, without what is computed twice; a frozen layer has no gradient of its weights. ``error`` where the step
    did not fit.
    """

    config: str
    changes: tuple[str, ...]
    size: str
    tokens: int
    layers: int
    cap_gib: float | None
    seconds: float = 0.0
    petaflops: float = 0.0
    peak_tflops: float = 0.0
    mfu: float = 0.0
    peak_gib: float = 0.0
    reserved_gib: float = 0.0
    error: str = ""
    cards: int = 1


class RandomSamples:
    """A ``batches.Source`` of noise in the shape of clips; never zeros, which compute faster."""

    fingerprint = ""

    def __init__(self, config: DiTConfig, size: VideoSize, batch: int) -> None:
        self._config, self._shape, self._batch = config, size.latent_shape()[1:], batch
        self.context_width = config.text_width

    def __len__(self) -> int:
        return self._batch

    def name_of(self, index: int) -> str:
        return f"random {index}"

    def plan(self, step: int) -> list[list[int]]:
        return [[index] for index in range(self._batch)]

    def load(self, index: int, own: np.random.Generator, shared: np.random.Generator) -> Sample:
        generator = torch.Generator().manual_seed(index)
        channels, _, height, width = self._shape

        def draw(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator)

        references = tuple(draw(channels, 1, height, width) for _ in range(REFERENCES))
        return Sample(self.name_of(index), draw(*self._shape), draw(TEXT_ROWS, self.context_width), references)


def random_dit(config: DiTConfig, device: torch.device) -> KaleidoDiT:
    """On the host, with memory of its own for every weight; a block is drawn once, on the device, and copied."""
    dit = random_transformer(replace(config, num_layers=1), device).cpu()
    dit.blocks.extend(copy.deepcopy(dit.blocks[0]) for _ in range(config.num_layers - 1))
    dit.config = config
    return dit


def tokens_of(size: VideoSize) -> int:
    return (size.latent_frames + REFERENCES) * (size.height // 16) * (size.width // 16)


def step_flops(config: DiTConfig, tokens: int, full: bool) -> float:
    """Of one sample, forward and backward, nothing twice."""
    forward = forward_flops(config, tokens)
    attention = 4.0 * config.num_layers * tokens * (tokens + TEXT_ROWS) * config.width
    products = forward - attention
    return forward + 2 * attention + (2 if full else 1) * products


def peak_flops(device: torch.device, side: int) -> float:
    a, b = (torch.randn(side, side, device=device).bfloat16() for _ in range(2))
    return 2 * side**3 / measure(lambda: a @ b, device, 10).seconds


def measure_steps(
    config: Config, model: DiTConfig, sizes: Sequence[VideoSize], blank: Row, peak: float, repeats: int, ranks: Ranks
) -> Iterator[Row]:
    """A row for each size, from a model that is built once; one step warms up, the median of ``repeats`` counts."""
    check_batch(config.run, ranks)
    device, part = ranks.device, slice(ranks.data_index, None, ranks.data_count)
    reads = ranks.first or config.parallel.strategy == "ddp"
    with trainee_at_work(config, ranks, random_dit(model, device) if reads else None) as trainee:
        parameters = trainee.parameters
        average = Average(parameters, config.optimizer.ema)
        progress = Progress(make_optimizer(parameters, config.optimizer), average, parameters)
        for size in sizes:
            named = f"{size.width}x{size.height}x{size.frames}"
            row = replace(blank, size=named, tokens=tokens_of(size), peak_tflops=peak / 1e12, cards=ranks.count)
            samples = load_step(RandomSamples(model, size, config.run.batch), 1, 0, part)
            _reset(device)
            times = []
            try:
                for _ in range(1 + repeats):
                    began = time.perf_counter()
                    take_step(trainee, progress, samples, config, ranks, Losses())
                    times.append(time.perf_counter() - began)  # a step ends by waiting for its norm
            except torch.OutOfMemoryError as error:
                if ranks.count > 1:
                    raise  # the others wait for this one
                yield replace(row, error=str(error).splitlines()[0])
                progress.optimizer.zero_grad(set_to_none=True)
                continue
            flops = step_flops(model, row.tokens, config.model.method == "full") * config.run.batch
            seconds = statistics.median(times[1:])
            row = replace(row, seconds=seconds, petaflops=flops / 1e15, mfu=flops / seconds / (peak * ranks.count))
            yield _with_memory(row, device)


def _reset(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _with_memory(row: Row, device: torch.device) -> Row:
    if device.type != "cuda":
        return row
    taken, reserved = torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
    return replace(row, peak_gib=taken / GIB, reserved_gib=reserved / GIB)


def table(rows: Sequence[Row]) -> str:
    lines = ["| config | clip | cap GiB | seconds | MFU | peak GiB | reserved GiB |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        found = f"{row.seconds:.2f} | {row.mfu:.1%} | {row.peak_gib:.2f} | {row.reserved_gib:.2f}"
        name = " ".join((row.config, *row.changes, *([f"{row.cards} cards"] if row.cards > 1 else [])))
        lines.append(f"| {name} | {row.size} | {row.cap_gib or 'none'} | {row.error or found} |")
    return "\n".join(lines)


def limit_memory(cap: float | None, device: torch.device) -> None:
    """Let the process have no more than a card of ``cap`` GiB would."""
    if cap and device.type == "cuda":
        whole = torch.cuda.get_device_properties(device).total_memory
        share = min(1.0, (cap * GIB - CONTEXT) / whole)
        torch.cuda.set_per_process_memory_fraction(share, torch.cuda.current_device())


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--cap", type=float, metavar="GIB", help="let the process have no more of the card")
    parser.add_argument("--peak", type=float, metavar="TFLOPS", help="of the card in bfloat16; measured by default")
    parser.add_argument("--layers", type=int, help="fewer blocks, for figures per layer")
    parser.add_argument("--sizes", default="512x512x81,896x512x81", help="width x height x frames, by commas")
    parser.add_argument("--repeats", type=int, default=3, help="steps whose median counts")
    parser.add_argument("--small", action="store_true", help="a small model and clip, to try this itself")
    return parser.parse_args()


def main() -> None:
    arguments = read_arguments()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", ALLOCATOR)
    config = read_config(arguments.config, arguments.set)
    model, sizes = (TINY.dit, "128x128x17") if arguments.small else (KALEIDO_14B, arguments.sizes)
    model = replace(model, num_layers=arguments.layers or model.num_layers)
    blank = Row(arguments.config.stem, tuple(arguments.set), "", 0, model.num_layers, arguments.cap)
    place, rows = arguments.out / "measure.json", []
    before = json.loads(place.read_text()) if place.exists() else []
    with joined(config.parallel) as ranks:
        side = 512 if arguments.small else 8192
        peak = arguments.peak * 1e12 if arguments.peak else peak_flops(ranks.device, side)
        limit_memory(arguments.cap, ranks.device)
        for row in measure_steps(config, model, read_sizes(sizes), blank, peak, arguments.repeats, ranks):
            rows.append(row)
            if ranks.first:
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text(json.dumps(before + [asdict(one) for one in rows], indent=1) + "\n")
        if ranks.first:
            print(table(rows))


if __name__ == "__main__":
    main()
