"""torch's Muon, with the matrices of one shape orthogonalised together."""

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class BatchedMuon(torch.optim.Muon):
    """``torch.optim.Muon(adjust_lr_fn="match_rms_adamw")``, with its state and numbers, in far fewer launches.

    The library's own goes through a hundred small matrices one by one: 117 ms a step on an H200 where AdamW took 91.
    The rule of its rate is that of Moonlight (arXiv 2502.16982).
    """

    def __init__(self, matrices: Sequence[nn.Parameter], lr: float, weight_decay: float):
        super().__init__(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        (group,) = self.param_groups
        by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
        for matrix in group["params"]:
            if matrix.grad is not None:
                by_shape[matrix.shape].append(matrix)
        for shape, matrices in by_shape.items():
            gradients = [matrix.grad for matrix in matrices]
            momenta = [self._momentum(matrix) for matrix in matrices]
            torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])  # pyright: ignore
            updates = torch.stack(torch._foreach_lerp(gradients, momenta, group["momentum"]))  # pyright: ignore
            updates = orthogonalise(updates, group["ns_coefficients"], group["ns_steps"], group["eps"])
            rate = group["lr"] * 0.2 * max(shape) ** 0.5
            torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])  # pyright: ignore
            torch._foreach_add_(matrices, list(updates.to(matrices[0].dtype)), alpha=-rate)  # pyright: ignore

    def _momentum(self, matrix: nn.Parameter) -> Tensor:
        state = self.state[matrix]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(matrix)
        return state["momentum_buffer"]


def orthogonalise(matrices: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """``[N P Q]`` -> bfloat16 ``[N P Q]`` with all singular values near 1: Newton-Schulz, as Muon has it."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.bfloat16().mT if tall else matrices.bfloat16()
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=eps)
    a, b, c = coefficients
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
