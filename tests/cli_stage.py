"""The command line without its model."""

import os
from types import SimpleNamespace

import numpy as np
import torch

from kaleido_core import cli
from kaleido_core.generate import Request, Result
from kaleido_core.shapes import Step


class Stage:
    """Stands in for the model: remembers what it was asked, and makes a latent of the request alone."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.image_sizes: list[list[tuple[int, int]]] = []
        self.loads = 0
        self.rooms: list[int | None] = []
        self.raises: BaseException | None = None
        self.began_again = 0  # after so many steps, as when memory runs out

    def load_models(self, request: Request, device: str = "cpu", room: int | None = None) -> SimpleNamespace:
        self.loads += 1
        self.rooms.append(room)
        return SimpleNamespace(placement=SimpleNamespace(room=room))

    def render(self, models, request: Request, images, on_step, on_stage) -> Result:
        self.requests.append(request)
        self.image_sizes.append([image.size for image in images])
        generator = torch.Generator().manual_seed(request.seed)
        latent = torch.randn(request.size.latent_shape(), generator=generator)
        on_stage("sampling")
        for index in (*range(self.began_again), *range(request.steps)):
            on_step(Step(index, latent, 0.0))
            if self.raises and index == 1:
                raise self.raises
        frames = np.full((request.frames, request.height, request.width, 3), request.seed % 256, np.uint8)
        return Result(frames, latent, tuple(np.array(image.convert("RGB")) for image in images))


def generate(*words: str) -> int:
    return cli.main(["generate", *words])


def listing(folder: str = ".") -> list[str]:
    return sorted(os.listdir(folder))


def refused(capsys, *words: str) -> str:
    """What the user reads when a command is refused."""
    capsys.readouterr()
    assert generate(*words) == 2
    said = capsys.readouterr()
    assert said.out == "" and "Traceback" not in said.err and said.err.startswith("kaleido: ")
    return said.err
