"""What a run leaves on disk: a log, and a checkpoint from which it goes on bit for bit."""

import json
import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from kaleido_core.errors import CheckpointError

logger = logging.getLogger("kaleido.training")


class Log:
    """JSON lines, each with the seconds since this process began; also told to the logger."""

    def __init__(self, path: Path):
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.began = path, time.monotonic()

    def write(self, **values: object) -> None:
        values["seconds"] = round(time.monotonic() - self.began, 2)
        line = json.dumps(values)
        with self.path.open("a") as file:
            file.write(line + "\n")
        logger.info(line)


@dataclass
class RunState:
    """Everything that changes while training. ``save`` is atomic; ``load`` refuses pickled code.

    ``plan`` is the recipe as text: a checkpoint does not go on under another one.
    """

    model: nn.Module
    ema: dict[str, Tensor]
    optimizers: Sequence[torch.optim.Optimizer]
    plan: str
    step: int = 0

    def save(self, path: Path) -> None:
        temporary = path.with_suffix(".part")
        optimizers = [optimizer.state_dict() for optimizer in self.optimizers]
        content = {"model": self.model.state_dict(), "ema": self.ema, "optimizers": optimizers}
        torch.save({**content, "plan": self.plan, "step": self.step}, temporary)
        os.replace(temporary, path)

    def load(self, path: Path) -> None:
        saved = torch.load(path, map_location=next(self.model.parameters()).device, weights_only=True)
        if saved["plan"] != self.plan:
            raise CheckpointError(
                f"{path} was begun with {saved['plan']}; this run is {self.plan}. "
                "Go on with the same settings and number of processes, or choose another folder."
            )
        self.model.load_state_dict(saved["model"])
        for optimizer, state in zip(self.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.ema, self.step = saved["ema"], saved["step"]


def begin(model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], plan: str, path: Path) -> RunState:
    """A fresh state, or the one saved at ``path``."""
    ema = {name: value.detach().clone() for name, value in model.state_dict().items()}
    state = RunState(model, ema, optimizers, plan)
    if path.exists():
        state.load(path)
    return state


def load_average(path: Path) -> dict[str, Tensor]:
    """The averaged weights of a run, on the CPU."""
    return torch.load(path, map_location="cpu", weights_only=True)["ema"]


def update(state: RunState, parameters: Sequence[nn.Parameter], rate: float) -> Tensor:
    """Take one step with the gradients that are there; returns their norm before it was clipped to 1."""
    norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    for optimizer in state.optimizers:
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    state.step += 1
    return norm


@torch.no_grad()
def update_ema(state: RunState, decay: float) -> None:
    """Move the averages towards the weights; early on the average is shorter."""
    decay = min(decay, (1 + state.step) / (10 + state.step))
    values = state.model.state_dict()
    torch._foreach_lerp_(  # pyright: ignore[reportPrivateImportUsage] - one launch for all tensors
        list(state.ema.values()), [values[name] for name in state.ema], 1 - decay
    )
