"""Several devices, each with its own share of every batch: gradients are averaged, all else stays local."""

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed
from torch import nn


@dataclass(frozen=True)
class Ranks:
    """This process among all, and where it computes."""

    index: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.index == 0


def join() -> Ranks:
    """Meet the other processes of ``torchrun``; without it, be the only one."""
    cuda = torch.cuda.is_available()
    if "RANK" not in os.environ:
        return Ranks(0, 1, torch.device("cuda" if cuda else "cpu"))
    torch.distributed.init_process_group("nccl" if cuda else "gloo")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    return Ranks(torch.distributed.get_rank(), torch.distributed.get_world_size(), device)


def average_gradients(parameters: Iterable[nn.Parameter], ranks: Ranks) -> None:
    """Replace each gradient by its mean over the ranks, in one exchange."""
    if ranks.count == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients]) / ranks.count
    torch.distributed.all_reduce(flat)
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def agree(value: bool, ranks: Ranks) -> bool:
    """The first rank's answer, for all."""
    if ranks.count == 1:
        return value
    answer = torch.tensor([int(value)], device=ranks.device)
    torch.distributed.broadcast(answer, 0)
    return bool(answer.item())


def leave(ranks: Ranks) -> None:
    if ranks.count > 1:
        torch.distributed.destroy_process_group()
