"""Draw a run's logs: ``python -m training.tiny.curves RUN OUT.png`` (needs matplotlib)."""

import argparse
import json
from pathlib import Path

import numpy as np


def read_log(path: Path, key: str, **fixed: object) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of the lines that have ``key`` and all of ``fixed``."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    chosen = [line for line in lines if key in line and all(line.get(name) == value for name, value in fixed.items())]
    return np.array([line["step"] for line in chosen]), np.array([line[key] for line in chosen])


def draw(run: Path, out: Path) -> None:
    """The autoencoder's PSNR on held-out clips, and the transformer's loss by number of references."""
    from matplotlib.figure import Figure  # pyright: ignore[reportMissingImports]

    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(*read_log(run / "vae.jsonl", "psnr"), "o-", color="tab:green")
    left.set(title="autoencoder, 32 held-out clips", xlabel="step", ylabel="PSNR, dB")
    for references in range(4):
        steps, losses = read_log(run / "dit.jsonl", "loss", references=references)
        right.plot(steps, losses, ".-", alpha=0.7, label=f"{references} references")
    right.set(title="transformer, training loss", xlabel="step", ylabel="squared velocity error", yscale="log")
    right.legend()
    for axes in (left, right):
        axes.grid(alpha=0.3)
    figure.savefig(out, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder with vae.jsonl and dit.jsonl")
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    draw(arguments.run, arguments.out)


if __name__ == "__main__":
    main()
