"""How fast, how large: one command prints ours, the limit, and ComfyUI's own model in the same run.

``python -m training.evaluation.benchmark OUT [--parts forward,swap,...] [--comfyui DIR] [--scale tiny]``. Figures come
from random weights and inputs, as medians of repeats after a warm-up. ``OUT/PART.json`` is written after every line,
so that a run that is ended early keeps what it has.
"""

import argparse
import json
import logging
import platform
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch._logging import set_logs  # pyright: ignore[reportPrivateImportUsage]

from .attention import attention
from .comfyui import comfyui
from .comfyui_caps import comfyui_caps
from .forward import forward
from .growth import growth
from .mapped import mapped
from .measure import Bench, Note, Part, Row, failure, header, line, settle
from .scale import FULL, SCALES
from .swap import swap
from .text import text
from .vae import vae

PARTS: dict[str, Part] = {
    "forward": forward,
    "attention": attention,
    "swap": swap,
    "mapped": mapped,
    "text": text,
    "vae": vae,
    "growth": growth,
    "comfyui": comfyui,  # last: they change settings of the process
    "comfyui_caps": comfyui_caps,
}


@dataclass
class Report:
    """What a part has found so far, as it lies in its file."""

    part: str
    device: str
    torch: str
    cuda: str | None
    python: str
    scale: str
    size: tuple[int, int, int]  # frames, height, width
    references: int
    tokens: int
    seconds: float = 0.0  # of the part, until its last line
    rows: list[Row] = field(default_factory=list)

    def write(self, folder: Path) -> None:
        rows = [{"kind": type(row).__name__, **asdict(row)} for row in self.rows]
        path = folder / f"{self.part}.json"
        unfinished = path.with_suffix(".part")
        unfinished.write_text(json.dumps({**asdict(self), "rows": rows}, indent=1) + "\n", encoding="utf-8")
        unfinished.replace(path)


def new_report(part: str, bench: Bench) -> Report:
    scale, device = bench.scale, bench.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU"
    size = scale.size.frames, scale.size.height, scale.size.width
    versions = torch.__version__, torch.version.cuda, platform.python_version()
    return Report(part, name, *versions, scale.name, size, scale.references, scale.tokens)


def run_part(part: str, bench: Bench, folder: Path) -> Report:
    """Print each line as it is found, under the head of its table."""
    print(f"\n## {part}", flush=True)
    settle(bench.device)
    began, report, last = time.perf_counter(), new_report(part, bench), None
    found = PARTS[part](bench)
    try:
        for row in found:
            if isinstance(row, Note):
                print(f"{row.name}: {row.text}", flush=True)
            elif last is type(row):
                print(line(row), flush=True)
            else:
                print(f"\n{header(row)}\n{line(row)}", flush=True)
            last = type(row)
            keep(row, report, began, folder)
    except Exception as problem:  # the other parts go on
        failed = failure(part, problem)
        print(f"{failed.name}: {failed.text}", flush=True)
        keep(failed, report, began, folder)
    print(f"\n{part} took {report.seconds:.0f} s", flush=True)
    return report


def keep(row: Row, report: Report, began: float, folder: Path) -> None:
    report.rows.append(row)
    report.seconds = time.perf_counter() - began
    report.write(folder)


def quieten() -> None:
    """Ours may speak; compilers and hosts only of errors."""
    warnings.filterwarnings("ignore")
    handler = logging.StreamHandler()
    handler.addFilter(lambda record: record.name.startswith("kaleido.") or record.levelno >= logging.ERROR)
    logging.basicConfig(handlers=[handler], format="%(message)s")
    set_logs(all=logging.ERROR)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for the figures, a JSON file for each part")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"of {','.join(PARTS)}; all without it")
    parser.add_argument("--comfyui", type=Path, help="a checkout of ComfyUI to measure beside ours")
    parser.add_argument("--scale", choices=SCALES, default=FULL.name, help="tiny: to try the benchmark itself")
    arguments = parser.parse_args(argv)
    chosen = arguments.parts.split(",")
    if unknown := set(chosen) - set(PARTS):
        parser.error(f"no parts named {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    bench = Bench(SCALES[arguments.scale], device, arguments.comfyui)
    shown = new_report("", bench)
    frames, height, width = shown.size
    print(
        f"{shown.device}, torch {shown.torch}, CUDA {shown.cuda}: {frames} frames of {width}x{height}, "
        f"{shown.references} references, {shown.tokens} tokens"
    )
    for part in chosen:
        run_part(part, bench, arguments.out)


if __name__ == "__main__":
    quieten()
    main()
