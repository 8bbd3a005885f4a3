import logging
import sys
from dataclasses import replace

import pytest
import torch
from PIL import Image

from kaleido_core import placement as module
from kaleido_core.errors import ConfigError
from kaleido_core.generate import Models, Request, load_models, render
from kaleido_core.offloading.block_swap import SLOTS
from kaleido_core.offloading.memory_plan import RESERVE
from kaleido_core.placement import ON_CPU, Placement, blocks_of, place, size_of, with_index

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
    resident, blocks = blocks_of(models.dit).resident(room), list(models.dit.blocks)
    rest = size_of(models.dit) - sum(map(size_of, blocks))
    assert resident in range(11) and (resident == 0 or resident == 10 or
            rest + (resident + SLOTS) * size_of(blocks[0]) <= room)  # fmt: skip
    assert blocks_of(models.dit).resident(room * 2) >= resident


def test_a_model_that_fits_is_moved_and_one_that_does_not_waits(models: Models):
    parts, work = (models.dit, models.vae, models.text_encoder), 2.0**30
    enough = int(sum(map(size_of, parts)) + work + RESERVE)
    assert place(CPU, parts, work, None).room is None
    assert place(CPU, parts, work, enough).room is None and place(CPU, parts, work, enough - 1).room == enough - 1


def test_a_card_is_never_asked_for_more_than_is_free(models: Models, monkeypatch):
    free = RESERVE + 10
    monkeypatch.setattr(module, "_free", lambda device: free)
    for asked in (None, 2**40):
        assert place(torch.device("cuda"), (models.dit,), 0, asked) == Placement(torch.device("cuda"), free, asked)
    assert place(torch.device("cuda"), (models.dit,), 0, free - 1).room == free - 1


def test_less_than_is_kept_free_is_refused_at_once(models: Models):
    with pytest.raises(ConfigError, match=r"1\.0 GiB of cpu are too few: 1\.25 are kept free.*raise --vram"):
        place(CPU, (models.dit,), 0, 2**30)


def test_a_bare_card_gets_its_number_which_older_torch_asks_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    assert [str(with_index(device)) for device in ("cuda", "cuda:1", "cpu")] == ["cuda:3", "cuda:1", "cpu"]
    placed, generate = [], sys.modules[load_models.__module__]
    monkeypatch.setattr(generate, "place", lambda device, parts, work, room: placed.append(device) or ON_CPU)
    load_models(REQUEST, "cuda")
    assert placed == [torch.device("cuda:3")]


def test_stepping_down_begins_within_the_cap_however_much_is_free(models: Models, monkeypatch):
    """On a card of 80 GiB, 50 of them free, with 20 taken by all parts."""
    gib = 2**30
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (50 * gib, 80 * gib))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 20 * gib)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 22 * gib)
    own = size_of(models.dit)
    for cap, left in ((None, 52), (48 * gib, 28), (200 * gib, 52)):
        assert Placement(CPU, cap=cap).smaller(models.dit).room == int(0.8 * (left * gib + own))
    enough = place(CPU, (models.dit,), 0, 48 * gib)
    assert enough.room is None and enough.cap == 48 * gib


def test_a_larger_clip_asks_for_more_room(models: Models, monkeypatch):
    asked = []
    monkeypatch.setattr(
        sys.modules[load_models.__module__], "place", lambda device, parts, work, room: asked.append(work) or ON_CPU
    )
    for size in (64, 512, 1024):
        load_models(replace(REQUEST, height=size, width=size, frames=81))
    assert 0 < asked[0] < asked[1] < asked[2] / 2


def test_the_step_cache_is_counted_for_each_branch_before_anything_is_placed(monkeypatch):
    asked, generate = [], sys.modules[load_models.__module__]
    monkeypatch.setattr(generate, "place", lambda device, parts, work, room: asked.append(work) or ON_CPU)
    monkeypatch.setattr(generate, "work_of_decoding", lambda vae, size: 0)
    for speed, cfg, reference_cfg in (
        ("exact", 2.0, 3.0),
        ("cached", 1.0, 1.0),
        ("cached", 2.0, 1.0),
        ("cached", 2.0, 3.0),
    ):
        load_models(replace(REQUEST, speed=speed, cfg=cfg, reference_cfg=reference_cfg))
    one, two, three = (work - asked[0] for work in asked[1:])
    assert 0 < one == pytest.approx(two / 2) == pytest.approx(three / 3)


@pytest.mark.parametrize("stage", ["text_encoder", "dit", "vae"])
def test_running_out_of_memory_steps_down_and_says_so(models: Models, stage: str, monkeypatch, caplog):
    caplog.set_level(logging.WARNING)
    pictures = [Image.new("RGB", (64, 64), "red")]
    exact, tries = render(models, REQUEST, pictures), []
    part, encode, decode, real = getattr(models, stage), Placement.encode, Placement.decode, Placement.at_work

    def twice(room):
        tries.append(room)
        if len(tries) < 3:
            raise torch.OutOfMemoryError("no room")

    def at_work(self, model, work=0.0):
        if model is part and stage != "vae":
            twice(self.room)
        return real(self, model, work)

    def first(run):
        return lambda self, vae, given: (stage == "vae" and twice(self.room)) or run(self, vae, given)

    monkeypatch.setattr(Placement, "at_work", at_work)
    monkeypatch.setattr(Placement, "encode", first(encode))
    monkeypatch.setattr(Placement, "decode", first(decode))
    monkeypatch.setattr(module, "_free", lambda device, cap: 4 * 2**30)
    again = render(models, REQUEST, pictures).latent
    assert (again - exact.latent).norm() <= 1e-4 * exact.latent.norm()
    assert tries[0] is None and 4 * 2**30 > tries[1] > tries[2] and caplog.text.count("Out of memory") == 2


def test_within_a_room_pictures_and_clips_go_through_the_autoencoder_in_tiles(models: Models, monkeypatch):
    tiles = []

    def watched(name: str):
        real = getattr(module, name)
        return lambda vae, given, tile, **out: tiles.append(tile) or real(vae, given, tile, **out)

    for name in ("encode_tiled", "decode_tiled"):
        monkeypatch.setattr(module, name, watched(name))
    generator = torch.Generator().manual_seed(0)
    latent, picture = torch.randn(1, 16, 2, 16, 16, generator=generator), torch.rand(1, 3, 1, 128, 128)
    tight = Placement(CPU, RESERVE + size_of(models.vae) + 16 * 2**20)
    assert torch.allclose(tight.decode(models.vae, latent), models.vae.decode(latent), atol=1e-4)
    assert torch.allclose(tight.encode(models.vae, picture), models.vae.encode(picture), atol=1e-4)
    assert len(tiles) == 2 and min(tiles) < (128, 128)


def test_nothing_left_to_try_is_an_error_with_advice(models: Models):
    with pytest.raises(ConfigError, match="smaller or shorter"):
        Placement(CPU, RESERVE).smaller(models.dit)
    with pytest.raises(ConfigError, match="Free some memory"):
        Placement(CPU, RESERVE + size_of(models.vae)).decode(models.vae, torch.zeros(1, 16, 1, 8, 8))


def test_eight_bits_and_a_kernel_are_taken_on_loading():
    models = load_models(replace(REQUEST, eight_bit="int8", attention="math"))
    assert type(models.dit.get_submodule("blocks.0.ffn.0")).__name__ == "Int8Linear"
    exact, loss = load_models(REQUEST), render(models, REQUEST, []).latent
    reference = render(exact, REQUEST, []).latent
    error = (loss - reference).norm() / reference.norm()
    assert 0 < error < 0.2, "some percent a forward; what is wrong is off by about 1"


def test_blocks_are_compiled_on_loading_and_their_larger_memory_is_counted(monkeypatch):
    compiled, asked, generate = [], [], sys.modules[load_models.__module__]
    monkeypatch.setattr(generate, "compile_blocks", lambda dit, device: compiled.append(device))
    monkeypatch.setattr(generate, "place", lambda device, parts, work, room: asked.append(work) or ON_CPU)
    monkeypatch.setattr(generate, "work_of_decoding", lambda vae, size: 0)
    for compile in (False, True):
        load_models(replace(REQUEST, compile=compile))
    assert compiled == [CPU] and asked[1] > asked[0]


def test_the_autoencoder_computes_in_the_type_that_is_asked_for():
    exact = load_models(REQUEST).vae
    half = load_models(replace(REQUEST, vae_dtype="bf16")).vae
    latent = torch.randn(1, 16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert next(exact.parameters()).dtype == torch.float32 and next(half.parameters()).dtype == torch.bfloat16
    assert 0 < (half.decode(latent) - exact.decode(latent)).abs().mean() < 0.02
    with pytest.raises(ConfigError, match="fp32 or bf16"):
        replace(REQUEST, vae_dtype="fp8")
