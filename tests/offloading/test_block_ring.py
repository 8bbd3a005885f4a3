"""When blocks are copied, and what waits for what."""

import gc
import threading
import weakref

import pytest
import torch

from kaleido_core import block_swap
from kaleido_core.offloading.copies import CpuLane, Loader
from kaleido_core.offloading.visitors import ALIGNMENT, spread

from .conftest import BLOCKS, SHARES, budget, linears, run


@SHARES
def test_the_device_holds_two_visitors_however_many_there_are(dit, share):
    size = max(sum(-(-p.nbytes // ALIGNMENT) * ALIGNMENT for p in block.parameters()) for block in dit.blocks)
    seen = {}

    def look(block, _inputs):
        for parameter in block.parameters():
            storage = parameter.untyped_storage()
            seen[storage.data_ptr()] = storage  # held, so that no later one can have its address

    with block_swap(dit, 1, "cpu", budget(dit, share)):
        for index in spread(BLOCKS, BLOCKS - 1):
            dit.blocks[index].register_forward_pre_hook(look)
        run(dit)
        run(dit)
    assert len(seen) == 2 and all(storage.nbytes() == size for storage in seen.values())


def test_the_next_but_one_is_loaded_when_a_block_has_computed_and_round_it_goes(monkeypatch):
    model, events, x = linears(5), [], torch.randn(3, 6)
    load = Loader.load
    monkeypatch.setattr(
        Loader, "load", lambda self, visitor, place: events.append(visitor.name) or load(self, visitor, place)
    )
    for index, block in enumerate(model.blocks):
        block.register_forward_pre_hook(lambda *_, index=index: events.append(index))
    with block_swap(model, 1, "cpu"):
        model(x)
        model(x)
    visits = [1, "blocks.3", 2, "blocks.4", 3, "blocks.1", 4, "blocks.2"]
    assert events == ["blocks.1", "blocks.2", *[0, *visits] * 2]


@pytest.mark.parametrize("visitors", [1, 2])
def test_visitors_that_fit_into_the_two_slots_are_loaded_once(visitors, monkeypatch):
    model, loads, x = linears(4), [], torch.randn(3, 6)
    load = Loader.load
    monkeypatch.setattr(Loader, "load", lambda *args: loads.append(args) or load(*args))
    with block_swap(model, 4 - visitors, "cpu"):
        model(x)
        model(x)
    assert len(loads) == visitors


class Moment:
    """An event of ``LateLane``: after ``computed`` blocks, and, of a copy, once it has been made."""

    def __init__(self, lane, computed):
        self.lane, self.computed = lane, computed

    def synchronize(self):
        self.lane.known.add(self)
        self.lane.catch_up(self)


class LateLane(CpuLane):
    """A device whose copies happen as late as its events allow, and that knows who last read each place."""

    def __init__(self, model):
        self.computed, self.readers, self.queue, self.lock = 0, {}, [], threading.Lock()
        self.sources, self.known = {}, set()
        self.busy = threading.Event()
        for block in model.blocks:
            block.register_forward_hook(self.count)

    def count(self, block, _inputs, _output):
        self.computed += 1
        self.readers[block.weight.untyped_storage().data_ptr()] = self.computed

    def mark(self):
        return Moment(self, self.computed)

    def copy(self, source, target, after):
        assert isinstance(after, Moment)
        assert after.computed >= self.readers.get(target.untyped_storage().data_ptr(), 0)
        moment = Moment(self, None)
        content, last = self.sources.get(source.data_ptr(), (source, None))
        assert last in self.known or torch.equal(content, source)  # else it was changed while being copied
        self.sources[source.data_ptr()] = source.clone(), moment
        with self.lock:
            self.queue.append((source, target, moment))
            self.busy.set()
        return moment

    def wait(self, event):
        self.catch_up(event)

    def finish(self):
        self.queue.clear()

    def catch_up(self, moment):
        with self.lock:
            while any(waiting is moment for *_, waiting in self.queue):
                source, target, _ = self.queue.pop(0)
                target.copy_(source)
            if not self.queue:
                self.busy.clear()


@SHARES
def test_copies_and_computing_wait_for_one_another_and_for_no_more(share, monkeypatch):
    model, x = linears(6, width=40), torch.randn(3, 40)
    whole, others = model(x), [model.blocks[index](x) for index in (3, 3, 1, 5, 0)]
    lane = LateLane(model)
    monkeypatch.setattr("kaleido_core.offloading.block_swap.open_lane", lambda device: lane)
    with block_swap(model, 1, "cpu", budget(model, share)):
        for _ in range(4):
            assert torch.equal(model(x), whole)
        lane.busy.wait(10)
        assert lane.queue  # copies are not waited for before their block is called
        for index, other in zip((3, 3, 1, 5, 0), others, strict=True):
            assert torch.equal(model.blocks[index](x), other)
    assert torch.equal(model(x), whole)


@SHARES
def test_blocks_may_be_called_in_any_order(share):
    model, x = linears(5), torch.randn(3, 6)
    order = [4, 3, 2, 1, 0, 0, 2, 4, 1, 1, 3, 0, 1, 2]
    whole = [model.blocks[index](x) for index in order]
    with block_swap(model, 1, "cpu", budget(model, share)):
        for index, expected in zip(order, whole, strict=True):
            assert torch.equal(model.blocks[index](x), expected)


def test_the_thread_ends_with_the_context(dit, monkeypatch):
    loaders, load = [], Loader.load
    monkeypatch.setattr(Loader, "load", lambda self, *args: loaders.append(self) or load(self, *args))
    before = threading.active_count()
    with block_swap(dit, 0, "cpu"):
        assert threading.active_count() == before + 1
    assert loaders and threading.active_count() == before


def test_nothing_on_the_device_outlives_the_context(dit):
    places = []
    with block_swap(dit, 0, "cpu"):
        dit.blocks[0].norm3.register_forward_pre_hook(
            lambda module, _: places.append(weakref.ref(module.weight.untyped_storage()))
        )
        run(dit)
    gc.collect()
    assert places and not any(place() for place in places)


@pytest.mark.parametrize("count", [1, 2, 7, 40])
def test_visitors_are_spread_as_evenly_as_they_go(count):
    for chosen in range(count + 1):
        places = spread(count, chosen)
        assert len(set(places)) == chosen
        gaps = [b - a for a, b in zip(places, [*places[1:], *(place + count for place in places[:1])], strict=True)]
        assert not gaps or max(gaps) - min(gaps) <= 1
        assert chosen == count or 0 not in places
