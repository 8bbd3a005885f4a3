import weakref

import pytest
import torch
from safetensors.torch import save_model
from torch import Tensor, nn

from kaleido_core import TextConfig, UMT5Encoder, block_swap, load_dit
from kaleido_core.errors import ConfigError
from kaleido_core.offloading.copies import CpuLane

from .conftest import BLOCKS, SHARES, Stack, assert_untouched, budget, linears, run, snapshot


class Cast(nn.Module):
    """A block whose weights are stored in another dtype than it computes in, beside a mask and an odd layout."""

    mask: Tensor
    one: Tensor

    def __init__(self, stored, width=6):
        super().__init__()
        weight = torch.randn(width, width)
        weight = (weight * 100).to(stored) if stored.is_floating_point else weight.mul(20).add(128).to(stored)
        self.weight = nn.Parameter(weight.t(), requires_grad=False)
        self.register_buffer("mask", torch.rand(3, width) > 0.3)
        self.register_buffer("one", torch.tensor(1.5))

    def forward(self, x):
        return torch.where(self.mask, torch.tanh(x @ self.weight.float() / 100), self.one)


@SHARES
@pytest.mark.parametrize("resident", [0, 1, 2, 3, 4, 5, 99])
def test_swapped_blocks_give_the_same_numbers_every_time(dit, resident, share):
    whole, before = run(dit), snapshot(dit)
    with block_swap(dit, resident, "cpu", budget(dit, share)) as swapped:
        for _ in range(3):
            assert torch.equal(run(swapped), whole)
    assert torch.equal(run(dit), whole)
    assert_untouched(dit, before)


@SHARES
def test_a_text_encoder_swaps_as_well(share):
    torch.manual_seed(0)
    encoder = UMT5Encoder(TextConfig(50, 16, 16, 24, 2, 4)).eval()
    ids, mask = torch.arange(8)[None], torch.ones(1, 8)
    with torch.inference_mode():
        whole = encoder(ids, mask)
        with block_swap(encoder, 1, "cpu", budget(encoder, share)):
            assert torch.equal(encoder(ids, mask), whole) and torch.equal(encoder(ids, mask), whole)
        assert torch.equal(encoder(ids, mask), whole)
    encoder(ids, mask).sum().backward()  # nothing is left of the inference mode in the weights


@SHARES
@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.uint8])
def test_any_stored_dtype_and_layout_arrives_as_it_was(stored, share):
    torch.manual_seed(4)
    model, x = Stack(Cast(stored) for _ in range(5)), torch.randn(3, 6)
    whole, before, strides = model(x), snapshot(model), model.blocks[0].get_parameter("weight").stride()
    with block_swap(model, 1, "cpu", budget(model, share)):
        assert torch.equal(model(x), whole) and torch.equal(model(x), whole)
        assert model.blocks[-1].get_parameter("weight").stride() == strides
    assert_untouched(model, before)


@SHARES
def test_what_blocks_share_stays_on_the_device(share):
    model, x = linears(6), torch.randn(3, 6)
    model.blocks[4].weight = model.blocks[1].weight
    model.blocks[5] = model.blocks[2]
    model.bias = model.blocks[3].bias
    whole, places = model(x), set()
    shared = [model.get_parameter(name) for name in ("blocks.1.weight", "blocks.2.weight", "bias")]
    for module in model.blocks:
        module.register_forward_pre_hook(lambda *_: places.update(value.data_ptr() for value in shared))
    with block_swap(model, 0, "cpu", budget(model, share)):
        assert torch.equal(model(x), whole) and torch.equal(model(x), whole)
    assert len(places) == len(shared)
    assert model.blocks[4].weight is model.blocks[1].weight and torch.equal(model(x), whole)


@SHARES
def test_weights_mapped_from_a_file_are_read_from_it_and_return_to_it(dit, tmp_path, share):
    save_model(dit, str(tmp_path / "dit.safetensors"), {"format": "pt"})
    mapped = load_dit(tmp_path / "dit.safetensors", config=dit.config)
    assert not any(parameter.untyped_storage().resizable() for parameter in mapped.parameters())
    before = {name: value.data_ptr() for name, value in mapped.state_dict().items()}
    with block_swap(mapped, 1, "cpu", budget(mapped, share)):
        assert torch.equal(run(mapped), run(dit))
    assert {name: value.data_ptr() for name, value in mapped.state_dict().items()} == before


@SHARES
def test_a_visitor_is_whole_on_the_host_between_its_turns(dit, share):
    before = snapshot(dit)
    with block_swap(dit, 1, "cpu", budget(dit, share)):
        run(dit)
        for name, value in dit.state_dict().items():
            assert torch.equal(value, before[name][2]), name


def test_pinned_weights_never_take_memory_twice(dit):
    originals = [weakref.ref(parameter.untyped_storage()) for parameter in dit.blocks[-1].parameters()]
    with block_swap(dit, 1, "cpu", budget(dit, 1)):
        assert not any(original() for original in originals)
        run(dit)


def test_memory_that_cannot_be_pinned_costs_one_warning_and_changes_nothing(dit, monkeypatch, caplog):
    whole, before = run(dit), snapshot(dit)
    monkeypatch.setattr(CpuLane, "pin", lambda self, memory: False)
    with block_swap(dit, 0, "cpu", budget(dit, 1)):
        assert torch.equal(run(dit), whole)
    assert [record.name for record in caplog.records] == ["kaleido.offloading"]
    assert_untouched(dit, before)


def test_everything_pinned_is_unpinned(dit, monkeypatch):
    pinned = []
    monkeypatch.setattr(CpuLane, "pin", lambda self, memory: pinned.append(memory.data_ptr()) or True)
    monkeypatch.setattr(CpuLane, "unpin", lambda self, memory: pinned.remove(memory.data_ptr()))
    with block_swap(dit, 0, "cpu", budget(dit, 0.5)):
        assert len(pinned) == BLOCKS // 2 + 2  # the other blocks pass through two buffers
    assert not pinned


@SHARES
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_brings_everything_home(dit, error, share):
    whole, before = run(dit), snapshot(dit)

    def fail(*_):
        raise error

    for _ in range(2):
        with pytest.raises(error), block_swap(dit, 1, "cpu", budget(dit, share)):
            dit.blocks[3].norm3.register_forward_pre_hook(fail)
            run(dit)
        dit.blocks[3].norm3._forward_pre_hooks.clear()
        assert_untouched(dit, before)
    assert torch.equal(run(dit), whole)


@SHARES
def test_a_forward_that_was_broken_off_does_not_spoil_the_next(dit, share):
    whole = run(dit)
    with block_swap(dit, 0, "cpu", budget(dit, share)):
        for error in (ValueError, KeyboardInterrupt):
            hook = dit.blocks[2].norm3.register_forward_pre_hook(lambda *_, error=error: (_ for _ in ()).throw(error()))
            with pytest.raises(error):
                run(dit)
            hook.remove()
            assert torch.equal(run(dit), whole) and torch.equal(run(dit), whole)


def test_an_error_while_preparing_brings_everything_home(dit, monkeypatch):
    before, calls = snapshot(dit), []

    def pin(self, memory):
        calls.append(memory)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return True

    monkeypatch.setattr(CpuLane, "pin", pin)
    with pytest.raises(KeyboardInterrupt), block_swap(dit, 0, "cpu", budget(dit, 1)):
        raise AssertionError("it must not come here")
    assert_untouched(dit, before)


def test_closing_a_generator_inside_brings_everything_home(dit):
    before = snapshot(dit)

    def steps():
        with block_swap(dit, 1, "cpu"):
            while True:
                yield run(dit)

    generator = steps()
    next(generator)
    generator.close()
    assert_untouched(dit, before)


@SHARES
def test_compiled_blocks_are_not_compiled_again(dit, share):
    whole, graphs = run(dit), []
    torch._dynamo.reset()

    def backend(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    for block in dit.blocks:
        block.compile(backend=backend, fullgraph=True)
    with torch.no_grad():
        assert torch.equal(run(dit), whole)
        compiled = len(graphs)
        with block_swap(dit, 1, "cpu", budget(dit, share)):
            assert torch.equal(run(dit), whole) and torch.equal(run(dit), whole)
        assert torch.equal(run(dit), whole)
    assert compiled and len(graphs) == compiled


def test_a_negative_number_of_resident_blocks_is_refused(dit):
    with pytest.raises(ConfigError, match="0 or more"), block_swap(dit, -1, "cpu"):
        pass
