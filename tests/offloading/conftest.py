"""Models to swap the blocks of, and what must be true of them afterwards."""

import threading

import pytest
import torch
from torch import nn

from kaleido_core import DiTConfig, KaleidoDiT
from kaleido_core.offloading.visitors import choose_visitors

BLOCKS = 5
SHARES = pytest.mark.parametrize("share", [0, 0.5, 1], ids=["staged", "mixed", "pinned"])


def budget(model, share):
    """Bytes that pin this share of the blocks."""
    return max(visitor.size for visitor in choose_visitors(model, 0)) * int(share * len(model.blocks))


@pytest.fixture
def dit():
    torch.manual_seed(0)
    return KaleidoDiT(DiTConfig(BLOCKS, 24, 2, 32, 8)).eval().requires_grad_(False)


def run(dit, device="cpu", dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    latent, context = torch.randn(1, 16, 1, 4, 4, generator=generator), torch.randn(1, 3, 8, generator=generator)
    return dit(latent.to(device, dtype), torch.tensor([0.5], device=device), context.to(device, dtype)).cpu()


class Stack(nn.Module):
    """Blocks and nothing else."""

    def __init__(self, blocks):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


def linears(count, width=6):
    torch.manual_seed(3)
    return Stack(nn.Linear(width, width) for _ in range(count)).requires_grad_(False)


def snapshot(model):
    return {name: (value.device, value.dtype, value.clone()) for name, value in model.state_dict().items()}


def assert_untouched(model, before):
    assert before.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        device, dtype, expected = before[name]
        assert (value.device, value.dtype) == (device, dtype) and torch.equal(value, expected), name
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
    assert not [thread for thread in threading.enumerate() if "block-swap" in thread.name]
