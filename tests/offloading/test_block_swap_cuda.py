"""What only a graphics card can show: streams that overlap without touching the same bytes, and how much memory."""

import time
from typing import cast

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from kaleido_core import block_swap
from kaleido_core.offloading.copies import CudaLane, PinnedMemory

from .conftest import SHARES, Stack, assert_untouched, budget, run, snapshot

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA card")

MIB = 2**20


class Layers(nn.Module):
    """``repeats`` multiplications with one weight ``[D D]``, bfloat16: work that can be as long as one likes."""

    def __init__(self, width, repeats):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, width).mul(width**-0.5).bfloat16(), requires_grad=False)
        self.bias = nn.Parameter(torch.randn(width).bfloat16(), requires_grad=False)
        self.repeats = repeats

    def forward(self, x):
        for _ in range(self.repeats):
            x = torch.tanh(x @ self.weight + self.bias)
        return x


def layers(count=8, width=2048, repeats=1):
    torch.manual_seed(5)
    return Stack(Layers(width, repeats) for _ in range(count))


def drawn(rows, width=2048, seed=0):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)).to("cuda", torch.bfloat16)


def seconds(call):
    call()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / 3


@SHARES
@pytest.mark.parametrize("resident", [0, 3, 6])
@pytest.mark.parametrize("repeats", [1, 40])
def test_many_forwards_are_those_of_the_whole_model(share, resident, repeats):
    """With copies slower than the computing (1), and the other way round (40)."""
    model, given = layers(repeats=repeats), [drawn(rows, seed=rows) for rows in (1, 64, 2048) * 10]
    with block_swap(model, 8, "cuda"):
        whole = [model(x) for x in given]
    before = snapshot(model)
    with block_swap(model, resident, "cuda", budget(model, share)):
        swapped = [model(x) for x in given]  # nothing waits for the device in between
        assert all(torch.equal(a, b) for a, b in zip(swapped, whole, strict=True))
        for index in (5, 1, 1, 7, 0):
            expected = model.blocks[index](given[1])
            assert torch.equal(model.blocks[index](given[1]), expected)
    assert_untouched(model, before)


@SHARES
def test_the_transformer_is_the_same_on_the_card(dit, share):
    with block_swap(dit, 5, "cuda"), torch.inference_mode():
        whole = run(dit, "cuda")
    before = snapshot(dit)
    with block_swap(dit, 1, "cuda", budget(dit, share)), torch.inference_mode():
        assert dit.head.head.weight.is_cuda and not dit.blocks[-1].norm3.weight.is_cuda
        assert all(torch.equal(run(dit, "cuda"), whole) for _ in range(10))
    assert_untouched(dit, before)


@SHARES
@pytest.mark.parametrize("resident", [0, 2, 5])
def test_memory_is_that_of_the_resident_blocks_and_two_more(share, resident):
    model, x = layers(), drawn(512)

    def peak(resident):
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        with block_swap(model, resident, "cuda", budget(model, share)), torch.no_grad():
            model(x)
            model(x)
            torch.cuda.synchronize()
            return torch.cuda.max_memory_allocated()

    block, whole, left = budget(model, 1) // 8, peak(8), torch.cuda.memory_allocated()
    assert peak(resident) <= whole - (8 - resident - 2) * block + MIB
    assert torch.cuda.memory_allocated() == left


def test_copies_of_pinned_blocks_hide_behind_the_computing():
    model, x = layers(6, 8192, 8), drawn(8192, 8192)
    pinned = torch.empty(budget(model, 1), dtype=torch.uint8, pin_memory=True)
    target = torch.empty_like(pinned, device="cuda")
    copying = seconds(lambda: target.copy_(pinned, non_blocking=True))
    with torch.no_grad():
        with block_swap(model, 6, "cuda"):
            whole = seconds(lambda: model(x))
        with block_swap(model, 0, "cuda", budget(model, 1)):
            swapped = seconds(lambda: model(x))
    assert copying < whole  # else nothing could hide
    assert swapped < whole + copying / 3


def test_a_model_that_began_on_the_card_leaves_it_and_returns():
    model, x = layers().to("cuda"), drawn(64)
    whole, before = model(x), snapshot(model)
    allocated = torch.cuda.memory_allocated()
    with block_swap(model, 1, "cuda", budget(model, 0.5)):
        assert torch.cuda.memory_allocated() <= allocated - 4 * (budget(model, 1) // 8)
        assert torch.equal(model(x), whole) and torch.equal(model(x), whole)
    assert_untouched(model, before)


def is_pinned(weight):
    """Tensor.is_pinned tells of PyTorch's own pinned memory alone; but no page can be pinned twice."""
    lane = CudaLane(torch.device("cuda"))
    newly = lane.pin(weight.data)
    if newly:
        lane.unpin(weight.data)
    return not newly


def test_weights_are_pinned_inside_and_no_longer_afterwards(dit):
    with block_swap(dit, 0, "cuda", budget(dit, 1)):
        assert is_pinned(dit.blocks[3].norm3.weight)
    assert not is_pinned(dit.blocks[3].norm3.weight)


def test_a_refusal_to_pin_is_not_blamed_on_the_next_kernel():
    lane = CudaLane(torch.device("cuda"))
    pinned = PinnedMemory(lane)
    memory = pinned.take(MIB)
    assert memory is not None and not lane.pin(memory)
    assert torch.ones(3, device="cuda").add(1).sum().item() == 6
    pinned.release()


def test_what_is_trained_on_the_card_comes_home_trained():
    model, x = layers(4, 64), drawn(8, 64)
    adapter = model.blocks[2].adapter = nn.Parameter(torch.ones(64, dtype=torch.bfloat16))
    model.blocks[2].register_forward_hook(lambda _module, _inputs, output: output.mul(adapter))
    with block_swap(model, 0, "cuda", budget(model, 0.5)):
        y = x
        for block in model.blocks:
            y = cast(torch.Tensor, checkpoint(block, y, use_reentrant=False))
        gradient = torch.autograd.grad(y.float().square().sum(), adapter)[0]
        with torch.no_grad():
            adapter -= gradient
        trained = adapter.cpu()
    assert not adapter.is_cuda and torch.equal(adapter, trained) and not torch.equal(trained, torch.ones_like(trained))
