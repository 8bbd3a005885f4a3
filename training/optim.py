"""How weights change: parameter groups, optimizers, the curve of the rate, clipping, averages (SPEC 9)."""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from kaleido_core.errors import ConfigError

from .config import OptimizerConfig, ScheduleConfig

Named = Mapping[str, nn.Parameter]


def decays(name: str, parameter: nn.Parameter, rule: str) -> bool:
    """Whether weight decay pulls at a parameter. "official": at all but biases and norm3 (SPEC 12.35)."""
    if name.endswith("bias") or ".norm3." in name:
        return False
    return rule == "official" or (parameter.ndim > 1 and "modulation" not in name)


def make_optimizer(parameters: Named, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Raises ``ConfigError`` for an optimizer whose package is not installed."""
    pulled = [p for name, p in parameters.items() if decays(name, p, config.decay)]
    spared = [p for name, p in parameters.items() if not decays(name, p, config.decay)]
    groups = [{"params": pulled, "weight_decay": config.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    if config.name == "adafactor":
        return torch.optim.Adafactor(groups, lr=config.lr)
    settings = {"lr": config.lr, "betas": config.betas, "eps": config.eps}
    if config.name == "adamw":
        return torch.optim.AdamW(groups, **settings)
    try:
        from torchao.optim import AdamW8bit  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(
            f"optimizer adamw8bit needs the package torchao ({error}). Install it (pip install torchao) or take adamw."
        ) from error
    return AdamW8bit(groups, **settings)


def learning_rate(step: int, steps: int, peak: float, schedule: ScheduleConfig) -> float:
    """The rate of step ``step`` (from 1) of ``steps``."""
    warmup = schedule.warmup_steps
    if step <= warmup:
        # SPEC 12.36: the official "auto warm-up" is flat, and ends with a jump.
        return min(0.05 * peak, peak * step / 50) if schedule.warmup == "official" else peak * step / warmup
    if schedule.kind == "constant":
        return peak
    done = (step - warmup) / max(1, steps - warmup)
    left = 1 - done if schedule.kind == "linear" else 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return peak * (schedule.final + (1 - schedule.final) * max(0.0, left))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def clip(parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
    """Scale gradients to a global norm of at most ``limit`` (0: leave them); the norm before, over all ranks."""
    norm = torch.nn.utils.clip_grad_norm_(parameters, limit or math.inf)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


class Average:
    """An exponential average of the weights (EMA), short at first; ``decay`` 0 keeps none."""

    def __init__(self, parameters: Named, decay: float) -> None:
        self.decay, self._parameters = decay, parameters
        self.values = {name: p.detach().clone() for name, p in parameters.items()} if decay else {}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After step ``step`` (from 1)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in self.values.items():
            value.lerp_(self._parameters[name].detach(), 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """While open, the model has the averages, where any are kept."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, value in self.values.items():
            kept = value.clone()
            value.copy_(self._parameters[name])
            self._parameters[name].copy_(kept)
