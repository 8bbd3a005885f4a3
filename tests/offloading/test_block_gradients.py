"""Gradients through blocks that visit the device."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from kaleido_core import block_swap
from kaleido_core.errors import ConfigError

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


def test_gradients_that_would_read_other_weights_are_an_error(dit):
    model, x = linears(5), torch.randn(3, 6, requires_grad=True)
    with block_swap(model, 0, "cpu"), pytest.raises(RuntimeError, match="modified by an inplace operation"):
        model(x).sum().backward()
    with block_swap(dit.requires_grad_(True), 0, "cpu"):
        with pytest.raises(ConfigError, match="no_grad"):
            run(dit)
        with torch.no_grad():
            run(dit)
