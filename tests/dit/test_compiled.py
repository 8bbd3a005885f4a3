"""Compiled blocks: as fast as may be, and never a reason to fail. No test here makes real kernels."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from kaleido_core import DiTConfig, KaleidoDiT
from kaleido_core.dit import compiled as module
from kaleido_core.dit.attention import attend_by, attention
from kaleido_core.dit.compiled import compile_blocks
from kaleido_core.offloading.block_swap import block_swap
from kaleido_core.quantization.quantize import FORMATS, quantize

CPU, CARD = torch.device("cpu"), torch.device("cuda")
real_compile = torch.compile


def values(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.fixture
def dit() -> KaleidoDiT:
    torch.manual_seed(0)
    return KaleidoDiT(DiTConfig(4, 64, 2, 96, 32)).eval().requires_grad_(False)


@torch.no_grad()
def run(dit: KaleidoDiT, references: int = 1) -> torch.Tensor:
    return dit(values(1, 16, 2, 4, 4), torch.tensor([0.5]), values(1, 3, 32), [values(1, 16, 1, 4, 4)] * references)


def attention_of(dit: KaleidoDiT, layer: str) -> Any:
    return dit.get_submodule(layer).attend


def compiling(monkeypatch, run: Callable[..., Any]) -> None:
    """Every compiled function is ``run`` with the function in front."""
    monkeypatch.setattr(torch, "compile", lambda plain, dynamic: lambda *given: run(plain, *given))


@pytest.fixture
def graphs(monkeypatch) -> list[torch.fx.GraphModule]:
    """What is compiled, into no more than calls of torch."""
    torch._dynamo.reset()
    made = []

    def backend(graph, _inputs):
        made.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda plain, dynamic: real_compile(plain, dynamic=dynamic, backend=backend))
    return made


def test_each_size_is_compiled_once_for_all_blocks_wherever_they_lie(dit, graphs):
    whole, bare = run(dit), run(dit, references=0)
    compile_blocks(dit, CPU)
    assert torch.equal(run(dit), whole) and len(graphs) == 1
    with torch.no_grad(), block_swap(dit, 1, "cpu"):
        assert torch.equal(run(dit), whole) and len(graphs) == 1
        assert torch.equal(run(dit, references=0), bare) and len(graphs) == 2


@pytest.mark.parametrize("form", FORMATS)
def test_blocks_in_eight_bits_are_compiled_as_well(form, dit, graphs):
    quantize(dit, form)
    expected = run(dit)
    compile_blocks(dit, CPU)
    with torch.no_grad(), block_swap(dit, 1, "cpu"):
        assert torch.equal(run(dit), expected) and torch.equal(run(dit), expected)
    assert len(graphs) == 1 and "forward" in vars(dit.blocks[0])


def test_where_no_compiler_works_blocks_run_as_written_and_it_is_said_once(dit, monkeypatch, caplog):
    def broken(plain, *inputs):
        raise RuntimeError("Failed to find C compiler.\nand more")

    expected, attends = run(dit), []
    compiling(monkeypatch, broken)
    monkeypatch.setattr(module, "fastest_kernel", lambda *_: "math")
    compile_blocks(dit, CARD)
    dit.blocks[3].register_forward_pre_hook(lambda block, _: attends.append(block.self_attn.attend))
    assert torch.equal(run(dit), expected) and torch.equal(run(dit), expected)
    assert len(caplog.messages) == 1 and "Failed to find C compiler." in caplog.messages[0]
    assert attends == [attention, attention], "which chooses for itself again"


def test_a_torch_that_compiles_nothing_at_all_is_no_reason_to_fail(dit, monkeypatch):
    def refuse(plain, dynamic):
        raise RuntimeError("torch.compile is not supported on Python 3.14+")

    expected = run(dit)
    monkeypatch.setattr(torch, "compile", refuse)
    compile_blocks(dit, CPU)
    assert torch.equal(run(dit), expected)


def test_too_little_memory_is_not_the_compilers_fault(dit, monkeypatch):
    def full(plain, *inputs):
        raise torch.OutOfMemoryError("full")

    compiling(monkeypatch, full)
    compile_blocks(dit, CPU)
    with pytest.raises(torch.OutOfMemoryError):
        run(dit)
    assert "forward" in vars(dit.blocks[0]), "with less of the model on the device it will work"


def test_the_fastest_attention_is_chosen_before_compiling_unless_one_was_named(dit, monkeypatch):
    monkeypatch.setattr(module, "fastest_kernel", lambda *_: "efficient")
    compile_blocks(dit, CARD)
    assert attention_of(dit, "blocks.0.self_attn") is attention_of(dit, "blocks.3.cross_attn") is attend_by("efficient")
    named = KaleidoDiT(dit.config)
    module.use_attention(named, "math")
    compile_blocks(named, CARD)
    assert attention_of(named, "blocks.0.self_attn") is attend_by("math")
