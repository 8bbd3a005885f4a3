"""Guidance by the references in the graph: the core's numbers, and what other patches see of it."""

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor

from kaleido_core.sampling.schedule import sigma_schedule

from .conftest import Pack, needs_host
from .test_graph import CFG, NEGATIVE, ROUNDING, SEED, SHIFT, STEPS, core_latent, distance, references_node, sample_node


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
