import logging
from dataclasses import replace

import pytest
import torch

from kaleido_core import placement as module
from kaleido_core.errors import ConfigError
from kaleido_core.generate import Models, Request, load_models, render
from kaleido_core.offloading.block_swap import SLOTS
from kaleido_core.placement import RESERVE, Placement, place, resident_blocks, size_of, work_of_transformer

CPU = torch.device("cpu")
REQUEST = Request(prompt="a duck spins", height=64, width=64, frames=5, steps=2)


@pytest.fixture(scope="module")
def models() -> Models:
    return load_models(REQUEST)


def test_taking_turns_gives_the_same_clip(models: Models, monkeypatch):
    whole = render(models, REQUEST, [])
    swaps = []
    swap = module.block_swap
    monkeypatch.setattr(module, "block_swap", lambda *given: swaps.append(given[1]) or swap(*given))
    tight = replace(models, placement=Placement(CPU, RESERVE + 30 * 2**20))
    by_turns = render(tight, REQUEST, [])
    assert torch.equal(by_turns.latent, whole.latent)
    assert abs(by_turns.frames.astype(int) - whole.frames).max() <= 1
    assert len(swaps) == 2 and 0 <= swaps[1] < 10, "text encoder, and a transformer that does not fit"


@pytest.mark.parametrize("room", [0, 6e6, 9e6, 1.2e7, 1e9])
def test_what_stays_resident_fits_beside_two_visitors(models: Models, room: float):
    resident, blocks = resident_blocks(models.dit, room), list(models.dit.blocks)
    rest = size_of(models.dit) - sum(map(size_of, blocks))
    assert resident in range(11) and (resident == 0 or resident == 10 or
            rest + (resident + SLOTS) * size_of(blocks[0]) <= room)  # fmt: skip
    assert resident_blocks(models.dit, room * 2) >= resident


def test_a_model_that_fits_is_moved_and_one_that_does_not_waits(models: Models):
    parts = models.dit, models.vae, models.text_encoder
    enough = int(sum(map(size_of, parts)) + work_of_transformer(models.dit, None) + RESERVE) + 1
    assert place(CPU, parts, None).room is None
    assert place(CPU, parts, enough).room is None and place(CPU, parts, enough - 2).room == enough - 2


def test_running_out_of_memory_steps_down_and_says_so(models: Models, monkeypatch, caplog):
    caplog.set_level(logging.WARNING)
    exact, tries = render(models, REQUEST, []), []
    real = Placement.at_work

    def at_work(self, model, work=0.0):
        if model is models.dit:
            tries.append(self.room)
            if len(tries) < 3:
                raise torch.OutOfMemoryError("no room")
        return real(self, model, work)

    monkeypatch.setattr(Placement, "at_work", at_work)
    monkeypatch.setattr(module, "_free", lambda device: 4 * 2**30)
    assert torch.equal(render(models, REQUEST, []).latent, exact.latent)
    assert tries[0] is None and 4 * 2**30 > tries[1] > tries[2] and caplog.text.count("Out of memory") == 2


def test_nothing_left_to_try_is_an_error_with_advice(models: Models):
    with pytest.raises(ConfigError, match="smaller or shorter"):
        Placement(CPU, RESERVE).smaller(models.dit)


def test_eight_bits_and_a_kernel_are_taken_on_loading():
    models = load_models(replace(REQUEST, eight_bit="int8", attention="math"))
    assert type(models.dit.get_submodule("blocks.0.ffn.0")).__name__ == "Int8Linear"
    exact, loss = load_models(REQUEST), render(models, REQUEST, []).latent
    reference = render(exact, REQUEST, []).latent
    assert 0 < (loss - reference).norm() / reference.norm() < 0.1
