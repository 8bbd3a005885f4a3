"""Gradients through blocks that visit the device."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from kaleido_core import block_swap
from kaleido_core.errors import ConfigError
from kaleido_core.offloading.visitors import Visitor

from .conftest import SHARES, budget, linears, run


@SHARES
def test_gradients_through_checkpointed_frozen_visitors_are_those_of_the_whole_model(share):
    model, x = linears(5), torch.randn(3, 6, requires_grad=True)
    adapter = model.blocks[2].adapter = nn.Parameter(torch.ones(6))
    model.blocks[2].register_forward_hook(lambda module, _, output: output.tanh() * module.adapter)

    def gradients():
        y = x
        for block in model.blocks:
            y = checkpoint(block, y, use_reentrant=False)
        return torch.autograd.grad(y.square().sum(), [x, adapter])

    whole = gradients()
    with block_swap(model, 0, "cpu", budget(model, share)):
        homes = [parameter.data_ptr() for parameter in model.parameters()]
        for _ in range(2):
            assert all(torch.equal(a, b) for a, b in zip(gradients(), whole, strict=True))
        assert [parameter.data_ptr() for parameter in model.parameters()] == homes
        with torch.no_grad():
            adapter += 1
        assert torch.equal(model(x), model(x))
    assert torch.equal(adapter, torch.full((6,), 2.0))


@pytest.mark.parametrize("again", [False, True], ids=["kept", "recomputed"])
def test_the_way_back_reads_the_weights_on_the_device_and_not_those_at_home(again, monkeypatch):
    gather = Visitor.gather
    monkeypatch.setattr(Visitor, "gather", lambda visitor, place: (gather(visitor, place), double(visitor, place)))

    def double(visitor, place):  # what computes here is then told from what lies at home
        for weight in visitor.weights:
            weight.within(place).mul_(2)

    model, x = linears(2), torch.randn(3, 6, requires_grad=True)
    doubled = copy.deepcopy(model)
    for parameter in doubled.parameters():
        parameter.data.mul_(2)
    with block_swap(model, 0, "cpu"):
        y = x
        for block in model.blocks:
            y = checkpoint(block, y, use_reentrant=False) if again else block(y)
        (gradient,) = torch.autograd.grad(y.square().sum(), x)
    (expected,) = torch.autograd.grad(doubled(x).square().sum(), x)
    assert torch.equal(gradient, expected)


def test_checkpointed_visitors_leave_nothing_behind(monkeypatch):
    """Otherwise all blocks would lie on the device at the end of a forward, which is what must not be."""
    lent: list[weakref.ref[torch.Tensor]] = []
    lend = Visitor.lend

    def watched(visitor, place):
        lend(visitor, place)
        lent.extend(weakref.ref(parameter) for parameter in visitor.block.parameters())

    monkeypatch.setattr(Visitor, "lend", watched)
    model, y = linears(4), torch.randn(3, 6, requires_grad=True)
    with block_swap(model, 0, "cpu"):
        for block in model.blocks:
            y = checkpoint(block, y, use_reentrant=False)
        gc.collect()
        assert len(lent) == 8 and not any(tensor() is not None for tensor in lent)
        y.sum().backward()


def test_weights_that_want_gradients_may_not_visit(dit):
    with block_swap(dit.requires_grad_(True), 0, "cpu"):
        with pytest.raises(ConfigError, match="no_grad"):
            run(dit)
        with torch.no_grad():
            run(dit)
