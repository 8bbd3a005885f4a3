"""What is forgotten and computed again is the same."""

from contextlib import AbstractContextManager
from typing import cast
from weakref import ref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kaleido_core import block_swap
from kaleido_core.offloading.visitors import Visitor
from training import activations
from training.activations import save_activations
from training.config import MemoryConfig
from training.lora import LoRAConfig, add_lora

from .small_run import SIZES, small_dit

CPU = torch.device("cpu")
WAYS = [
    MemoryConfig("none"),
    MemoryConfig("attention"),
    MemoryConfig("blocks"),
    MemoryConfig("blocks", offload_activations=True),
    MemoryConfig("rows", offload_activations=True),
    MemoryConfig("rows", resident_blocks=0),
    MemoryConfig("attention", resident_blocks=1),
]


def gradients(memory: MemoryConfig, scale: float = 1.0) -> list[torch.Tensor]:
    """Of a LoRA, beside blocks whose weights are ``scale`` times as large."""
    dit = small_dit()
    with torch.no_grad():
        for parameter in dit.blocks.parameters():
            parameter.mul_(scale)
    save_activations(dit, memory, CPU)
    parameters = add_lora(dit, LoRAConfig(4, 8.0, ("all",)), torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.05)
    generator = torch.Generator().manual_seed(1)
    latent, context = (
        torch.randn(shape, generator=generator) for shape in ((1, 16, 2, 4, 4), (1, 3, SIZES.text_width))
    )
    with block_swap(dit, memory.resident_blocks if memory.resident_blocks >= 0 else 2, CPU):
        loss = dit(latent, torch.tensor([0.5]), context, [latent[:, :, :1]]).square().mean()
        return list(torch.autograd.grad(loss, parameters))


@pytest.mark.parametrize("memory", WAYS[1:])
def test_gradients_are_the_same_whatever_is_kept(memory, monkeypatch):
    monkeypatch.setattr(activations, "BATCH_ROWS", 5)  # the MLP in several runs of rows
    for plain, found in zip(gradients(WAYS[0]), gradients(memory), strict=True):
        torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("way", ["blocks", "rows"])
def test_the_way_back_reads_visiting_weights_where_they_compute_and_not_those_at_home(way, monkeypatch):
    """On a card they are two places; here the numbers are half as much again where they compute."""
    monkeypatch.setattr(activations, "BATCH_ROWS", 5)
    expected = gradients(WAYS[0], scale=1.5)
    gather = Visitor.gather

    def scaled(visitor, place):
        gather(visitor, place)
        for weight in visitor.weights:
            weight.within(place).mul_(1.5)

    monkeypatch.setattr(Visitor, "gather", scaled)
    for plain, found in zip(expected, gradients(MemoryConfig(way, resident_blocks=0)), strict=True):
        torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-7)


def test_names_of_parameters_stay_and_so_does_inference():
    dit, plain = small_dit(), small_dit()
    save_activations(dit, MemoryConfig("rows", offload_activations=True), CPU)
    assert dit.state_dict().keys() == plain.state_dict().keys()
    latent, context = torch.ones(1, 16, 1, 4, 4), torch.ones(1, 2, SIZES.text_width)
    with torch.no_grad():
        assert torch.equal(dit(latent, torch.ones(1), context), plain(latent, torch.ones(1), context))


def kept_bytes(memory: MemoryConfig) -> int:
    """What autograd holds after a forward, weights left out."""
    dit = small_dit().requires_grad_(True)
    save_activations(dit, memory, CPU)
    weights, kept = {p.untyped_storage().data_ptr() for p in dit.parameters()}, {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = dit(torch.ones(1, 16, 4, 16, 16), torch.ones(1), torch.ones(1, 2, SIZES.text_width))
    assert output.requires_grad
    return sum(kept.values())


def test_a_checkpointed_block_keeps_far_less():
    assert kept_bytes(MemoryConfig("blocks")) < 0.3 * kept_bytes(MemoryConfig("none"))


class Calls(TorchDispatchMode):
    """Counts how often self-attention is computed."""

    count = 0

    def __torch_dispatch__(self, operation, types, inputs=(), named=None):
        if operation in activations.ATTENTION and inputs[0].shape == inputs[1].shape:
            self.count += 1
        return operation(*inputs, **(named or {}))


@pytest.mark.parametrize(("checkpointing", "expected"), [("none", 2), ("attention", 2), ("blocks", 4), ("rows", 4)])
def test_self_attention_is_not_computed_again_where_its_result_is_kept(checkpointing, expected):
    with Calls() as calls:
        gradients(MemoryConfig(checkpointing))
    assert calls.count == expected


def test_what_is_offloaded_leaves_the_device(monkeypatch):
    def copies(pin_memory: bool) -> AbstractContextManager[None]:
        """Stands for main memory beside a device."""
        return torch.autograd.graph.saved_tensors_hooks(torch.clone, lambda tensor: tensor)

    monkeypatch.setattr(activations, "save_on_cpu", copies)
    for offload, gone in ((False, False), (True, True)):
        dit, seen = small_dit().requires_grad_(True), []
        save_activations(dit, MemoryConfig("blocks", offload), CPU)
        dit.blocks[0].register_forward_hook(
            lambda block, inputs, output, seen=seen: seen.append(ref(cast(torch.Tensor, output).untyped_storage()))
        )
        output = dit(torch.ones(1, 16, 2, 4, 4), torch.ones(1), torch.ones(1, 2, SIZES.text_width))
        assert output.requires_grad and (seen[0]() is None) is gone
