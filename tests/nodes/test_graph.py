"""The graph and the core give the same numbers."""

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor

from kaleido_core import Conditioning, VideoSize, encode_references, initial_noise, load_dit, load_vae
from kaleido_core.generate import Request, encode_text, load_models
from kaleido_core.request import DEFAULTS_TINY
from kaleido_core.sampling.schedule import sigma_schedule
from kaleido_core.sampling.speed import Speed, sample_at

from .conftest import COMFYUI, Pack, image, needs_host

SIZE = VideoSize(5, 64, 48)
STEPS, CFG, SHIFT, SEED = 3, 2.5, 3.0, 7
ROUNDING = 3e-5  # of float32, relative; 1.03e-5 was the most. Positions of plain Wan would be 3e-2 away.
PROMPT, NEGATIVE = "A duck slides to the right on a plain teal background.", "blurry"


def references_node(pack: Pack, demo: Any, pictures: list[Any], batch: int = 1, **more: Any) -> Any:
    model, clip, vae = demo
    inputs: dict[str, Any] = {
        "model": model,
        "positive": pack.encode_text(clip, PROMPT),
        "negative": pack.encode_text(clip, NEGATIVE),
        "vae": vae,
        "size": "custom",
        "width": SIZE.width,
        "height": SIZE.height,
        "length": SIZE.frames,
        "batch_size": batch,
        "fit": "letterbox",
        "references": {f"image{n + 1}": image(picture) for n, picture in enumerate(pictures)},
    }
    return pack.run("KaleidoReferences", **{**inputs, **more}).args


def sample_node(
    pack: Pack, model: Any, positive: Any, negative: Any, latent: Any, cfg: float = CFG, **more: float
) -> Tensor:
    inputs = {"seed": SEED, "preset": "custom", "steps": STEPS, "cfg": cfg, "shift": SHIFT, **more}
    (result,) = pack.run(
        "KaleidoSampler", model=model, positive=positive, negative=negative, latent=latent, **inputs
    ).args
    return result["samples"]


def core_latent(
    pictures: list[Any], batch: int, cfg: float = CFG, loras: tuple[str, ...] = (), reference_cfg: float = 1.0
) -> Tensor:
    models = load_models(Request(prompt=PROMPT, loras=loras))
    context, negative = encode_text(models, [PROMPT, NEGATIVE]).chunk(2)
    references = encode_references(models.vae.encode, pictures, SIZE)
    noise = initial_noise(SIZE.latent_shape(batch=batch), SEED)
    cond, uncond = Conditioning(context, references), Conditioning(negative, references)
    return sample_at(Speed(), models.dit, noise, sigma_schedule(STEPS, SHIFT), cond, uncond, cfg, reference_cfg)


def distance(ours: Tensor, theirs: Tensor) -> float:
    return ((ours - theirs).norm() / theirs.norm()).item()


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_a_graph_gives_the_cores_latent(pack: Pack, demo, pictures, count: int, batch: int):
    model, positive, negative, latent, _ = references_node(pack, demo, pictures[:count], batch)
    made = pack.normalised(sample_node(pack, model, positive, negative, latent))
    assert made.shape == SIZE.latent_shape(batch=batch)
    assert distance(made, core_latent(pictures[:count], batch)) <= ROUNDING


def test_references_change_the_clip_and_so_does_their_order(pack: Pack, demo, pictures):
    made = [
        sample_node(pack, *references_node(pack, demo, chosen)[:4])
        for chosen in (pictures[:2], pictures[1::-1], pictures[:1])
    ]
    assert all(distance(made[a], made[b]) > 1e-3 for a, b in ((0, 1), (0, 2), (1, 2)))


def test_unpatched_reference_frames_would_be_silently_wrong(pack: Pack, demo, pictures):
    """Why Kaleido References has a model socket."""
    _, positive, negative, latent, _ = references_node(pack, demo, pictures[:2])
    plain = pack.adapter.load_demo()[0]
    assert distance(sample_node(pack, plain, positive, negative, latent), core_latent(pictures[:2], 1)) > 1e-3


def test_without_references_the_patch_changes_no_bit(pack: Pack, demo):
    _, positive, negative, latent, _ = references_node(pack, demo, [])
    plain = pack.adapter.load_demo()[0]
    made = [sample_node(pack, m, positive, negative, latent) for m in (plain, pack.adapter.make_kaleido(plain))]
    assert torch.equal(*made)


def test_applying_twice_is_applying_once(pack: Pack, demo, pictures):
    model, *rest = references_node(pack, demo, pictures[:2])[:4]
    (again,) = pack.run("KaleidoApply", model=model).args
    wrapped = model.clone()
    rope = model.get_model_object("diffusion_model.rope_encode")
    wrapped.add_object_patch("diffusion_model.rope_encode", lambda *a, **o: rope(*a, **o))  # some other pack's patch
    (over,) = pack.run("KaleidoApply", model=wrapped).args
    once, twice, thrice = (sample_node(pack, m, *rest) for m in (model, again, over))
    assert torch.equal(once, twice) and torch.equal(once, thrice)


def test_the_models_others_hold_stay_as_they_were(pack: Pack, demo, pictures):
    plain = pack.adapter.load_demo()[0]
    before = [set(keys) for keys in plain.wrappers.values()]
    references_node(pack, (plain, *demo[1:]), pictures[:1])
    assert not plain.object_patches and [set(keys) for keys in plain.wrappers.values()] == before


def test_memory_is_asked_for_the_references_too(pack: Pack, demo, pictures, monkeypatch):
    model, positive, negative, latent, _ = references_node(pack, demo, pictures[:2])
    seen: list[int] = []
    helpers = importlib.import_module("comfy.sampler_helpers" if COMFYUI else "comfy.sample")
    if COMFYUI:
        real = helpers.estimate_memory
        monkeypatch.setattr(helpers, "estimate_memory", lambda m, shape, c: seen.append(shape[2]) or real(m, shape, c))
        sample_node(pack, model, positive, negative, latent)
    else:
        sample_node(pack, model, positive, negative, latent)
        seen.append(helpers.ESTIMATES[-1][2])
    assert seen == [SIZE.latent_frames + 2]


def test_a_latent_of_another_size_is_refused_with_both_sizes(pack: Pack, demo, pictures):
    model, positive, negative, _, _ = references_node(pack, demo, pictures[:1])
    other = pack.adapter.empty_latent(VideoSize(5, 64, 64).latent_shape())
    with pytest.raises(ValueError, match=r"48x64.*64x64"):
        sample_node(pack, model, positive, negative, other)


def test_a_model_that_is_not_wan_is_refused_by_name(pack: Pack):
    class Flux:
        model_type = None

    class Holder:
        class model:
            diffusion_model = Flux()

    with pytest.raises(Exception, match=r"Flux.*Kaleido Load Model"):
        pack.adapter.make_kaleido(Holder())


def test_a_latent_of_pictures_is_sampled_as_one_frame(pack: Pack, demo):
    model, positive, negative, _ = references_node(pack, demo, [])[:4]
    flat, clip = ({"samples": torch.zeros(shape)} for shape in ((1, 16, 8, 8), (1, 16, 1, 8, 8)))
    assert torch.equal(*(sample_node(pack, model, positive, negative, latent) for latent in (flat, clip)))


def test_sigmas_are_the_cores(pack: Pack):
    (sigmas,) = pack.run("KaleidoSigmas", steps=50, shift=7.0).args
    assert torch.equal(sigmas, sigma_schedule(50, 7.0))


def test_a_preset_takes_the_place_of_the_values(pack: Pack, demo, monkeypatch):
    seen = []
    monkeypatch.setattr(pack.adapter, "sample_euler", lambda *a: seen.append(a[-3:]) or a[3])
    values = {"model": 0, "positive": [], "negative": [], "latent": {}, "seed": 0, "steps": 9, "cfg": 1.0, "shift": 2.0}
    for preset, steps, *cfgs in (
        ("kaleido 14B", 50, 6.0, 1.0),
        ("kaleido demo", 20, DEFAULTS_TINY.cfg, DEFAULTS_TINY.reference_cfg),
        ("4-step LoRA", 4, 1.0, 1.0),
        ("custom", 9, 1.0, 1.0),
    ):
        pack.run("KaleidoSampler", preset=preset, **values)
        assert len(seen[-1][0]) == steps + 1 and seen[-1][1:] == tuple(cfgs)


@needs_host
def test_the_demo_file_in_the_stock_loader_is_the_demo_model(pack: Pack, demo, pictures):
    stock: Any = importlib.import_module("nodes")
    if "kaleido_tiny_dit.safetensors" not in pack.adapter.model_files():
        pytest.skip("this release does not read the demo file")
    (model,) = stock.UNETLoader().load_unet("kaleido_tiny_dit.safetensors", "default")
    ours = sample_node(pack, *references_node(pack, demo, pictures[:1])[:4])
    theirs = sample_node(pack, *references_node(pack, (model, *demo[1:]), pictures[:1])[:4])
    assert torch.equal(ours, theirs)


@needs_host
def test_a_lora_before_or_behind_apply_is_the_same(pack: Pack, demo, pictures):
    import comfy.sd  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)
    name = "diffusion_model.blocks.1.self_attn.q"
    lora = {f"{name}.lora_A.weight": torch.randn(4, 256), f"{name}.lora_B.weight": torch.randn(256, 4) / 8}
    plain = pack.adapter.load_demo()[0]

    def with_lora(model: Any) -> Any:
        return comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0)[0]

    _, *rest = references_node(pack, demo, pictures[:1])[:4]
    before = sample_node(pack, pack.adapter.make_kaleido(with_lora(plain)), *rest)
    behind = sample_node(pack, with_lora(pack.adapter.make_kaleido(plain)), *rest)
    without = sample_node(pack, pack.adapter.make_kaleido(plain), *rest)
    assert torch.equal(before, behind) and not torch.equal(before, without)


def test_an_old_host_reads_the_demo_model_through_wider_text(pack: Pack, pictures, monkeypatch):
    if COMFYUI:
        pytest.skip("0.8.0 itself shows it")
    monkeypatch.setattr(importlib.import_module("comfy.sd"), "OLD_TEXT_WIDTH", 4096)
    monkeypatch.setattr(pack.adapter, "RELEASE", (0, 8, 0))
    old = pack.run("KaleidoDemoModel").args
    made = sample_node(pack, *references_node(pack, old, pictures[:1])[:4])
    assert distance(pack.normalised(made), core_latent(pictures[:1], 1)) <= ROUNDING
    assert load_dit("tiny").config.text_width == 128 and load_vae("tiny").config.base_width == 16


@needs_host
@pytest.mark.parametrize("mebibytes", [0, 1, 8])
def test_a_model_loaded_in_part_gives_the_same_bits(pack: Pack, demo, pictures, monkeypatch, mebibytes: int):
    name = "diffusion_model.blocks.9.self_attn.q"  # while not loaded, it gets its LoRA at every use
    first, second = torch.randn(2, 4, 256, generator=torch.manual_seed(0))
    weights = {f"{name}.lora_A.weight": first, f"{name}.lora_B.weight": second.T.contiguous() / 8}

    def latent() -> tuple[Tensor, Any]:
        plain = pack.adapter.load_demo()[0]
        model = importlib.import_module("comfy.sd").load_lora_for_models(plain, None, weights, 1.0, 0)[0]
        inputs = references_node(pack, (model, *demo[1:]), pictures[:2])[:4]
        return sample_node(pack, *inputs), inputs[0].model

    whole, _ = latent()
    patcher, budget = importlib.import_module("comfy.model_patcher").ModelPatcher, mebibytes * 2**20
    load = patcher.partially_load
    monkeypatch.setattr(
        patcher, "partially_load", lambda self, device, memory, **more: load(self, device, budget, **more)
    )
    part, model = latent()
    assert model.model_lowvram and model.model_loaded_weight_memory <= budget
    assert torch.equal(part, whole)
