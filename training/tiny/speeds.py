"""What the speeds of ``generate --speed`` cost: ``python -m training.tiny.speeds DATA OUT [--speeds ...]``.

The same held-out clips of kaleido-tiny at every speed: how often the reference is recognised (``report.py``), the
likeness to the exact clip, and the share of the blocks' work that was left. Many clips at a time, but one by one, as
users make them, where a step cache is among the speeds: it decides for all of a batch alike.
"""

import argparse
import dataclasses
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from kaleido_core.generate import Models, load_models
from kaleido_core.request import Request
from kaleido_core.sampling.speed import SPEEDS, Speed

from .data import Artwork, load_artwork
from .report import PIECE, Cases, Settings, candidate_drawings, choose_cases, found, generate_all

logger = logging.getLogger("kaleido.training")

SHORTCUTS = {  # what speeds could be made of, each alone
    "8 steps": Speed(steps=0.4),
    "40 steps": Speed(steps=2.0),
    "step cache, drift 0.2": Speed(drift=0.2),
    "guidance taken again below sigma 0.6": Speed(reused_below=0.6),
    "guidance only above sigma 0.5": Speed(guided_to=0.5),
    "drift 0.15, taken again below 0.6": Speed(drift=0.15, reused_below=0.6),
}


@dataclasses.dataclass(frozen=True)
class SpeedFigures:
    """``found``: share of clips with all references recognised; ``psnr``, ``lowest`` in dB beside the exact clips."""

    speed: str
    references: int
    found: float
    psnr: float
    lowest: float
    work: float


@contextmanager
def counted_blocks(dit: nn.Module) -> Iterator[list[int]]:
    """While open, how often each block of ``dit`` ran; the step cache puts its own list in the place of theirs."""
    blocks = list(dit.blocks)  # pyright: ignore[reportArgumentType]
    counts = [0] * len(blocks)

    def count(place: int) -> None:
        counts[place] += 1

    hooks = [
        block.register_forward_pre_hook(lambda *_, place=place: count(place)) for place, block in enumerate(blocks)
    ]
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()


def likeness(clips: Tensor, exact: Tensor) -> Tensor:
    """PSNR in dB of each clip ``[N 3 F H W]`` in -1..1; 99 for equal ones."""
    error = (clips.float() - exact.float()).square().flatten(1).mean(1)
    return (10 * torch.log10(4 / error)).clamp_max(99)


def measure_speeds(
    models: Models, art: Artwork, cases: Cases, sprites: Tensor, speeds: Mapping[str, Speed] = SPEEDS
) -> list[SpeedFigures]:
    """Figures of each of ``speeds``, of which "exact" comes first, on the same cases; sprites uint8 [M 4 64 64]."""
    figures, exact, exact_work = [], torch.zeros(0), 1
    piece = 1 if any(speed.drift for speed in speeds.values()) else PIECE
    for name, speed in speeds.items():
        with counted_blocks(models.dit) as counts:
            clips, _ = generate_all(models, art, cases.scenes, True, Settings(speed=speed), piece)
        if name == "exact":
            exact, exact_work = clips, sum(counts)
        near = likeness(clips, exact)
        share = found(clips, cases.targets, sprites, art.device)
        figures.append(
            SpeedFigures(
                name,
                cases.targets.shape[1],
                share,
                near.median().item(),
                near.min().item(),
                sum(counts) / exact_work,
            )
        )
        logger.info("%s", figures[-1])
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with emoji.zip and photos.zip")
    parser.add_argument("out", type=Path, help="folder for speeds.json")
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--speeds", default=";".join(SPEEDS), help=f"beside exact, of: {'; '.join(SPEEDS | SHORTCUTS)}")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arguments.out.mkdir(parents=True, exist_ok=True)
    known, names = SPEEDS | SHORTCUTS, arguments.speeds.split(";")
    if unknown := set(names) - set(known):
        parser.error(f"no speed is named {'; '.join(sorted(unknown))}; there are {'; '.join(known)}")
    speeds = {name: known[name] for name in dict.fromkeys(["exact", *names])}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    models = load_models(Request(prompt=""), device)
    art = load_artwork(arguments.data, device)
    candidates = candidate_drawings(art, 200)
    sprites = art.emoji.sprites[candidates.to(device)]
    figures = []
    for references in (1, 2):
        cases = choose_cases(art, candidates, arguments.clips, references)
        figures += [dataclasses.asdict(one) for one in measure_speeds(models, art, cases, sprites, speeds)]
        (arguments.out / "speeds.json").write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
