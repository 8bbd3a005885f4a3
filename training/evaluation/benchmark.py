"""How fast, how large: one forward of the transformer against what its products and its attention alone would take.

``python -m training.evaluation.benchmark OUT [--growth] [--small]`` writes ``benchmark.json`` and prints tables. Every
figure of a run comes from one process, from random weights and latents, as the median of repeats after a warm-up.
"""

import argparse
import gc
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import linear

from kaleido_core import KALEIDO_14B, DiTConfig, KaleidoDiT, VideoSize
from kaleido_core.dit.attention import attention, fastest_kernel, split_heads, use_attention
from kaleido_core.offloading.arithmetic import forward_flops
from kaleido_core.quantization.quantize import FORMATS, quantize

GIB = 2**30
TEXT_ROWS = 512
WORK = VideoSize(81, 512, 896)
SMALL = DiTConfig(num_layers=2, width=256, num_heads=2, mlp_width=704, text_width=128)
EXACT = "exact bf16"
FORMS = (EXACT, *FORMATS, "compiled")
GROWTH_FRAMES = (9, 17, 33, 49, 81, 121)


@dataclass(frozen=True)
class Inputs:
    """One forward's: latent ``[1 16 T H W]``, sigma ``[1]``, context ``[1 L D]``, references ``[1 16 1 h w]``."""

    latent: Tensor
    sigma: Tensor
    context: Tensor
    references: tuple[Tensor, ...]


@dataclass(frozen=True)
class Measure:
    """Median, least and most seconds of a call, and the GiB it held at most beside what was there before."""

    name: str
    seconds: float
    least: float
    most: float
    peak: float
    error: float | None = None  # relative L2 to the exact result


def random_model(config: DiTConfig, device: torch.device) -> KaleidoDiT:
    """Random bfloat16 weights of a size that keeps activations near 1; norms' weights near 1."""
    generator = torch.Generator(device).manual_seed(0)
    with torch.device("meta"):
        dit = KaleidoDiT(config, dtype=torch.bfloat16)
    dit = dit.to_empty(device=device).requires_grad_(False)
    for name, value in dit.named_parameters():
        size = 1 / value[0].numel() ** 0.5 if value.ndim > 1 and "modulation" not in name else 0.1
        value.normal_(0, size, generator=generator)
        if "norm" in name and name.endswith("weight"):
            value.add_(1)
    return dit


def random_inputs(config: DiTConfig, size: VideoSize, references: int, device: torch.device) -> Inputs:
    generator = torch.Generator(device).manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    shape = size.latent_shape()
    pictures = tuple(draw(1, shape[1], 1, *shape[3:]) for _ in range(references))
    context = draw(1, TEXT_ROWS, config.text_width).bfloat16()
    return Inputs(draw(*shape), torch.full((1,), 0.7, device=device), context, pictures)


def measure(name: str, call: Callable[[], object], device: torch.device, repeats: int = 3) -> Measure:
    """Time ``call`` after one call to warm up."""
    call()
    _settle(device)
    before, times = _memory(device), []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        _wait(device)
        times.append(time.perf_counter() - began)
    peak = torch.cuda.max_memory_allocated(device) - before if device.type == "cuda" else 0
    return Measure(name, statistics.median(times), min(times), max(times), peak / GIB)


def _settle(device: torch.device) -> None:
    gc.collect()
    _wait(device)
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _memory(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


@torch.no_grad()
def limit(config: DiTConfig, tokens: int, device: torch.device) -> list[Measure]:
    """What the matrix products and the attention of a forward take alone, each as often in a row as a forward asks.

    A card that works for seconds is slower than in a burst: it heats up.
    """
    width, hidden, layers = config.width, config.mlp_width, config.num_layers

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device).bfloat16()

    def product(rows: int, into: int, out: int) -> Callable[[], object]:
        x, weight, bias = draw(rows, into), draw(out, into), draw(out)
        return lambda: linear(x, weight, bias)

    def look(rows: int) -> Callable[[], object]:
        query, key, value = (split_heads(draw(1, n, width), config.num_heads) for n in (tokens, rows, rows))
        return lambda: attention(query, key, value)

    parts = [  # name, one of it, how many in a block
        ("linear", product(tokens, width, width), 6),
        ("MLP in", product(tokens, width, hidden), 1),
        ("MLP out", product(tokens, hidden, width), 1),
        ("text", product(TEXT_ROWS, width, width), 2),
        ("attention", look(tokens), 1),
        ("attention to text", look(TEXT_ROWS), 1),
    ]
    found = [measure(name, partial(_repeat, call, layers * count), device) for name, call, count in parts]
    total = {column: sum(getattr(one, column) for one in found) for column in ("seconds", "least", "most")}
    return [*found, Measure("limit", **total, peak=0.0)]


def _repeat(call: Callable[[], object], times: int) -> None:
    for _ in range(times):
        call()


@torch.no_grad()
def forwards(config: DiTConfig, inputs: Inputs, device: torch.device) -> Iterator[Measure]:
    """The exact forward, then what may be asked for: compiled blocks, eight bits."""
    exact = None
    for form in FORMS:
        try:
            velocity, found = forward_as(form, config, inputs, device, exact)
        except Exception as reason:  # one way that fails must not cost the others' figures
            print(f"{form}: {type(reason).__name__}: {str(reason)[:300]}")
            continue
        exact = velocity if form == EXACT else exact
        yield found


def forward_as(
    form: str, config: DiTConfig, inputs: Inputs, device: torch.device, exact: Tensor | None
) -> tuple[Tensor, Measure]:
    """The velocity of a model in one form, and its measure with the distance to the ``exact`` one."""
    _settle(device)
    dit = random_model(config, device)
    if form == "compiled":
        kernel = fastest_kernel(device, torch.bfloat16, config.head_width) if device.type == "cuda" else "auto"
        use_attention(dit, kernel)  # what is compiled cannot measure
        for block in dit.blocks:
            block.compile(dynamic=False)
    elif form != EXACT:
        quantize(dit, form)
    arguments = inputs.latent, inputs.sigma, inputs.context, inputs.references
    velocity = dit(*arguments)
    error = None if exact is None else ((velocity - exact).norm() / exact.norm()).item()
    return velocity, replace(measure(form, lambda: dit(*arguments), device), error=error)


@torch.no_grad()
def growth(config: DiTConfig, device: torch.device) -> list[dict[str, float]]:
    """Seconds over clips of different lengths and numbers of references, beside the arithmetic they hold."""
    dit, rows = random_model(config, device), []
    for frames in GROWTH_FRAMES:
        for references in range(4):
            size = VideoSize(frames, WORK.height, WORK.width)
            inputs = random_inputs(config, size, references, device)
            tokens = (size.latent_frames + references) * (size.height // 16) * (size.width // 16)
            call = measure("", lambda i=inputs: dit(i.latent, i.sigma, i.context, i.references), device, repeats=1)
            flops = forward_flops(config, tokens)
            rows.append({"frames": frames, "references": references, "tokens": tokens, "seconds": call.seconds,
                         "peak": call.peak, "tflops": flops / call.seconds / 1e12})  # fmt: skip
    return rows


def table(found: Sequence[Measure], reference: float) -> str:
    """Markdown: seconds, spread, share of the limit, memory, loss."""
    lines = ["| | seconds | least - most | over the limit | peak GiB | error |", "|---|---|---|---|---|---|"]
    for one in found:
        error = "" if one.error is None else f"{one.error:.1e}"
        lines.append(
            f"| {one.name} | {one.seconds:.3f} | {one.least:.3f} - {one.most:.3f} | {one.seconds / reference:.3f} "
            f"| {one.peak:.2f} | {error} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--growth", action="store_true", help="also over lengths and numbers of references")
    parser.add_argument("--small", action="store_true", help="a small model and clip, to try the benchmark itself")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config, size = (SMALL, VideoSize(17, 128, 128)) if arguments.small else (KALEIDO_14B, WORK)
    inputs = random_inputs(config, size, 3, device)
    tokens = (size.latent_frames + 3) * (size.height // 16) * (size.width // 16)
    arguments.out.mkdir(parents=True, exist_ok=True)
    place = arguments.out / "benchmark.json"
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"
    report = {"device": name, "torch": torch.__version__, "tokens": tokens, "config": asdict(config)}
    found = bounds = limit(config, tokens, device)
    for one in forwards(config, inputs, device):
        found = [*found, one]
        report["measures"] = [asdict(one) for one in found]
        place.write_text(json.dumps(report, indent=1) + "\n")  # what is known is kept, whatever comes
    print(f"{name}, torch {torch.__version__}, {tokens} tokens\n{table(found, bounds[-1].seconds)}", flush=True)
    if arguments.growth:
        report["growth"] = growth(config, device)
        place.write_text(json.dumps(report, indent=1) + "\n")
        print("\n".join(str(row) for row in report["growth"]))


if __name__ == "__main__":
    main()
