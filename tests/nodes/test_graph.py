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


@pytest.mark.parametrize("cfg", [1.0, CFG])
@pytest.mark.parametrize("count", [0, 2])
def test_guidance_by_the_references_gives_the_cores_latent(pack: Pack, demo, pictures, count: int, cfg: float):
    model, positive, negative, latent, _ = references_node(pack, demo, pictures[:count])
    guided, plain = (
        pack.normalised(sample_node(pack, model, positive, negative, latent, cfg, reference_cfg=scale))
        for scale in (2.5, 1.0)
    )
    assert distance(guided, core_latent(pictures[:count], 1, cfg, reference_cfg=2.5)) <= ROUNDING
    assert (distance(guided, plain) > 1e-2) == (count > 0)


def test_guidance_at_cfg_1_is_the_same_where_a_patch_wants_the_negative_too(pack: Pack, demo, pictures):
    model, positive, negative, latent, _ = references_node(pack, demo, pictures[:2])
    model = model.clone()
    model.set_model_sampler_post_cfg_function(lambda args: args["denoised"], disable_cfg1_optimization=True)
    made = pack.normalised(sample_node(pack, model, positive, negative, latent, 1.0, reference_cfg=2.5))
    assert distance(made, core_latent(pictures[:2], 1, 1.0, reference_cfg=2.5)) <= ROUNDING


def test_guidance_goes_with_another_patch_that_computes_the_branches(pack: Pack, demo, pictures):
    calc = importlib.import_module("comfy.samplers").calc_cond_batch
    names = ("model", "conds", "input", "sigma", "model_options")
    model, positive, negative, latent, _ = references_node(pack, demo, pictures[:2])
    model = model.clone()
    model.set_model_sampler_calc_cond_batch_function(lambda args: calc(*(args[name] for name in names)))
    made = pack.normalised(sample_node(pack, model, positive, negative, latent, reference_cfg=2.5))
    assert distance(made, core_latent(pictures[:2], 1, reference_cfg=2.5)) <= ROUNDING


def test_patches_behind_the_guidance_find_the_branches_as_the_model_gave_them(pack: Pack, demo, pictures):
    seen = []
    model, positive, negative, latent, _ = references_node(pack, demo, pictures[:2])
    model = model.clone()
    names = ("denoised", "cond_denoised", "uncond_denoised")
    model.set_model_sampler_post_cfg_function(
        lambda args: seen.append([args[name] for name in names]) or args["denoised"]
    )
    for scale in (1.0, 2.5):
        sample_node(pack, model, positive, negative, latent, reference_cfg=scale)
    assert len(seen) == 2 * STEPS and all(map(torch.equal, seen[0], seen[STEPS]))


def test_a_step_is_one_call_in_which_each_branch_has_a_name_that_lasts(pack: Pack, demo, pictures, monkeypatch):
    """EasyCache decides once a call what to skip, and files by these names what it takes again."""
    calls = []
    samplers = importlib.import_module("comfy.samplers")
    calc = samplers.calc_cond_batch

    def watch(model: Any, conds: Any, *rest: Any) -> Any:
        calls.append([cond["uuid"] for branch in conds for cond in branch])
        return calc(model, conds, *rest)

    monkeypatch.setattr(samplers, "calc_cond_batch", watch)
    sample_node(pack, *references_node(pack, demo, pictures[:2])[:4], reference_cfg=2.5)
    assert calls == [calls[0]] * STEPS and len(set(calls[0])) == 3


def test_a_negative_without_references_is_said_on_the_node_and_changes_nothing(pack: Pack, demo, pictures, monkeypatch):
    said = []
    monkeypatch.setattr(pack.adapter, "show_text", lambda node, text: said.append((node, text)))
    model, positive, negative, latent, _ = references_node(pack, demo, pictures[:2])
    bare = pack.encode_text(demo[1], NEGATIVE)
    made = [sample_node(pack, model, positive, bare, latent, reference_cfg=scale) for scale in (2.5, 1.0)]
    assert torch.equal(*made) and len(said) == 1
    assert said[0][0] == "1" and "negative of Kaleido References" in said[0][1]
    sample_node(pack, model, positive, bare, latent, 1.0, reference_cfg=2.5)
    sample_node(pack, model, positive, negative, latent, reference_cfg=2.5)
    assert len(said) == 1, "with cfg 1 nobody looks at the negative"


def dual_guider_latent(pack: Pack, demo: Any, model: Any, positive: Any, negative: Any, latent: Any) -> Tensor:
    """For samplers of ComfyUI's own: negative before Kaleido References, where it has no references yet."""
    samplers, extras = (
        importlib.import_module(name) for name in ("comfy.samplers", "comfy_extras.nodes_custom_sampler")
    )
    guider = extras.Guider_DualCFG(model)
    guider.set_conds(positive, negative, pack.encode_text(demo[1], NEGATIVE))
    guider.set_cfg(CFG, 2.5)
    noise = importlib.import_module("comfy.sample").prepare_noise(latent["samples"], SEED)
    sigmas = sigma_schedule(6, SHIFT)
    return guider.sample(noise, latent["samples"], samplers.sampler_object("euler"), sigmas, seed=SEED)


@needs_host
def test_the_stock_dual_guider_gives_the_same_mix(pack: Pack, demo, pictures):
    inputs = references_node(pack, demo, pictures[:2])[:4]
    ours = sample_node(pack, *inputs, reference_cfg=2.5, steps=6)
    assert distance(dual_guider_latent(pack, demo, *inputs), ours) <= ROUNDING


@needs_host
def test_easycache_skips_the_branch_without_references_with_the_others(pack: Pack, demo, pictures):
    """All are skipped once they may be, so the stock guider, whose three branches are one call, gives the same."""
    cache = importlib.import_module("comfy_extras.nodes_easycache").EasyCacheNode
    model, *rest = references_node(pack, demo, pictures[:2])[:4]
    (cached,) = cache.execute(model, reuse_threshold=1e9, start_percent=0.0, end_percent=1.0, verbose=False).args
    ours, plain = (sample_node(pack, one, *rest, reference_cfg=2.5, steps=6) for one in (cached, model))
    assert distance(dual_guider_latent(pack, demo, cached, *rest), ours) <= ROUNDING
    assert ours.isfinite().all() and distance(ours, plain) > 1e-3


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
