"""Draw the logs of runs side by side: ``python -m training.tiny.curves OUT.png RUN...`` (needs matplotlib)."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


def read_log(path: Path, key: str, **fixed: object) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of the lines that have ``key`` and all of ``fixed``."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    chosen = [line for line in lines if key in line and all(line.get(name) == value for name, value in fixed.items())]
    return np.array([line["step"] for line in chosen]), np.array([line[key] for line in chosen])


def draw(runs: Sequence[Path], out: Path) -> None:
    """A panel for each log there is: an autoencoder's ``vae.jsonl``, a transformer's ``dit.jsonl``."""
    from matplotlib.figure import Figure  # pyright: ignore[reportMissingImports]

    logs = [run / name for run in runs for name in ("vae.jsonl", "dit.jsonl") if (run / name).exists()]
    figure = Figure(figsize=(5 * len(logs), 3.6), layout="constrained")
    for log, axes in zip(logs, figure.subplots(1, len(logs), squeeze=False)[0], strict=True):
        _draw_psnr(log, axes) if log.name == "vae.jsonl" else _draw_loss(log, axes)
        axes.grid(alpha=0.3)
    figure.savefig(out, dpi=100)


def _draw_psnr(log: Path, axes: Any) -> None:
    axes.plot(*read_log(log, "psnr"), "o-", color="tab:green")
    axes.set(title=f"{log.parent.name}: 32 held-out clips", xlabel="step", ylabel="PSNR, dB")


def _draw_loss(log: Path, axes: Any) -> None:
    for references in range(4):
        steps, losses = read_log(log, "loss", references=references)
        if len(steps):
            axes.plot(steps, losses, ".-", alpha=0.7, label=f"{references} references")
    axes.set(title=f"{log.parent.name}: training loss", xlabel="step", ylabel="squared velocity error", yscale="log")
    axes.legend()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("runs", type=Path, nargs="+", help="folders with vae.jsonl or dit.jsonl")
    arguments = parser.parse_args()
    draw(arguments.runs, arguments.out)


if __name__ == "__main__":
    main()
