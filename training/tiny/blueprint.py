"""A style to learn, made on any CPU in minutes: ``python -m training.tiny.blueprint OUT [--clips 20]``.

Clips of kaleido-tiny, redrawn as blueprints, their reference pictures left as they are, and a manifest. Their captions
end in ", blueprint", words that the model knows nothing of.
"""

import argparse
import logging
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import avg_pool2d, conv2d

from kaleido_core.checkpoints.load import ASSETS
from kaleido_core.generate import load_models, render
from kaleido_core.request import DEFAULTS_TINY, Request
from kaleido_core.video import write_video

from ..data.record import Picture, Record, write_manifest

logger = logging.getLogger("kaleido.training")

TRIGGER = ", blueprint"
SUBJECTS = {"duck": "duck.png", "watermelon": "melon.png"}  # the robot face is left to try the style on
MOTIONS = ("slides to the right", "bounces", "spins clockwise", "slides up", "grows", "slides to the left")
PLACES = ("on a plain teal background", "in front of a green meadow", "on a brick wall", "against a starry night sky")
PAPER, INK = (0.06, 0.22, 0.5), (0.95, 0.98, 1.0)


def captions(count: int) -> list[tuple[tuple[str, ...], str]]:
    """Subjects and sentence of each clip, all different; every third one has both subjects."""
    names = tuple(SUBJECTS)
    found = []
    for number in range(count):
        motion, place = MOTIONS[number % len(MOTIONS)], PLACES[(number // 2) % len(PLACES)]
        if number % 3 == 2:
            found.append((names, f"The {names[0]} {motion} and the {names[1]} bounces {place}"))
        else:
            name = names[number % 2]
            found.append(((name,), f"The {name} {motion} {place}"))
    return found


def as_blueprint(frames: np.ndarray) -> np.ndarray:
    """Uint8 ``[F H W 3]``: white lines where brightness changes, on blue paper, with a hint of the shading."""
    grey = torch.from_numpy(frames).float().mean(-1)[:, None] / 255
    smooth = avg_pool2d(grey, 3, 1, 1, count_include_pad=False)
    sobel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    edges = conv2d(smooth, torch.stack([sobel, sobel.T])[:, None], padding=1).norm(dim=1)
    ink = (2.2 * edges.clamp(0, 0.45) + 0.18 * smooth[:, 0]).clamp(0, 1)[..., None]
    ink[:, [0, -1]] = ink[:, :, [0, -1]] = 0  # no frame around the picture
    colours = torch.lerp(torch.tensor(PAPER), torch.tensor(INK), ink)
    return (colours * 255).round().byte().numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write to")
    parser.add_argument("--clips", type=int, default=20)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    arguments.out.mkdir(parents=True, exist_ok=True)
    models, records = load_models(Request(prompt="")), []
    for number, (names, caption) in enumerate(captions(arguments.clips)):
        paths = [str(ASSETS / "references" / SUBJECTS[name]) for name in names]
        request = Request(f"{caption}.", seed=number, speed="balanced", reference_cfg=DEFAULTS_TINY.reference_cfg)
        made = render(models, request, [Image.open(path) for path in paths])
        video = f"blueprint-{number}.mp4"
        write_video(as_blueprint(made.frames), arguments.out / video)
        references = tuple(Picture(path, name) for path, name in zip(paths, names, strict=True))
        records.append(Record(f"blueprint-{number}", video, f"{caption}{TRIGGER}.", references=references))
        logger.info("%d of %d: %s", number + 1, arguments.clips, caption)
    write_manifest(arguments.out / "manifest.jsonl", records)


if __name__ == "__main__":
    main()
