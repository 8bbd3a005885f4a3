"""Sampling as the host does it: patches on, branches with their own conditioning, latents normalised inside."""

import uuid
from typing import Any

import torch
from torch import Tensor

from comfy.patcher_extension import WrappersMP, run_wrapped
from comfy.samplers import calc_cond_batch
from comfy.sd import ModelPatcher, process_in, process_out

ESTIMATES: list[list[int]] = []  # the shapes that memory was asked for


def prepare_noise(latent_image: Tensor, seed: int, noise_inds: Any = None) -> Tensor:
    return torch.randn(latent_image.shape, generator=torch.manual_seed(seed))


def fix_empty_latent_channels(model: ModelPatcher, latent_image: Tensor) -> Tensor:
    """A latent of pictures is a video of one frame."""
    return latent_image.unsqueeze(2) if latent_image.ndim == 4 else latent_image


def sample_custom(
    model: ModelPatcher, noise, cfg, sampler, sigmas, positive, negative, latent_image, callback=None, **others: Any
) -> Tensor:
    network = model.model.diffusion_model
    conds = {name: [{**extra, "cross_attn": cross} for cross, extra in branch]
             for name, branch in (("positive", positive), ("negative", negative))}  # fmt: skip
    prepare = [w for group in model.wrappers.get(WrappersMP.PREPARE_SAMPLING, {}).values() for w in group]
    run_wrapped(lambda model, shape, conds, **o: ESTIMATES.append(list(shape)), prepare, model, noise.shape, conds)
    for name, value in model.object_patches.items():
        setattr(network, name.removeprefix("diffusion_model."), value)
    branches = [
        [{"cross_attn": cross, "model_conds": dict(extra), "uuid": uuid.uuid4()} for cross, extra in branch]
        for branch in (positive, negative)
    ]
    try:
        latent = sigmas[0] * noise + (1 - sigmas[0]) * (
            process_in(latent_image) if latent_image.any() else latent_image
        )
        for index in range(len(sigmas) - 1):
            denoised = _guided(model, latent, sigmas[index], cfg, branches)
            latent = latent + (latent - denoised) / sigmas[index] * (sigmas[index + 1] - sigmas[index])
            if callback is not None:
                callback(index, denoised, latent, len(sigmas) - 1)
    finally:
        for name in model.object_patches:
            delattr(network, name.removeprefix("diffusion_model."))
    return process_out(latent)


def _guided(model: ModelPatcher, latent: Tensor, sigma: Tensor, cfg: float, branches: list[Any]) -> Tensor:
    options = model.model_options
    conds = [branches[0], None if cfg == 1.0 and not options.get("disable_cfg1_optimization") else branches[1]]
    args = {"input": latent, "sigma": sigma, "model": model, "model_options": options}
    predict = options.get("sampler_calc_cond_batch_function")
    positive, negative = (
        predict({"conds": conds, **args}) if predict else calc_cond_batch(model, conds, latent, sigma, options)
    )
    denoised = negative + cfg * (positive - negative)
    for change in options.get("sampler_post_cfg_function", []):
        outs = {"cond_denoised": positive, "uncond_denoised": negative, "cond_scale": cfg}
        denoised = change({"denoised": denoised, "cond": conds[0], "uncond": conds[1], **outs, **args})
    return denoised
