"""Sampling as the host does it: patches on, branches with their own conditioning, latents normalised inside."""

from typing import Any

import torch
from torch import Tensor

from comfy.patcher_extension import WrappersMP, run_wrapped
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
    try:
        latent = sigmas[0] * noise + (1 - sigmas[0]) * (
            process_in(latent_image) if latent_image.any() else latent_image
        )
        for index in range(len(sigmas) - 1):
            denoised = _denoise(model, latent, sigmas[index], conds["positive"][0])
            if cfg != 1.0:
                negative_denoised = _denoise(model, latent, sigmas[index], conds["negative"][0])
                denoised = negative_denoised + cfg * (denoised - negative_denoised)
            latent = latent + (latent - denoised) / sigmas[index] * (sigmas[index + 1] - sigmas[index])
            if callback is not None:
                callback(index, denoised, latent, len(sigmas) - 1)
    finally:
        for name in model.object_patches:
            delattr(network, name.removeprefix("diffusion_model."))
    return process_out(latent)


@torch.no_grad()
def _denoise(model: ModelPatcher, latent: Tensor, sigma: Tensor, cond: dict[str, Any]) -> Tensor:
    extra = {}
    if "time_dim_concat" in cond:
        extra["time_dim_concat"] = process_in(cond["time_dim_concat"]).expand(len(latent), -1, -1, -1, -1)
    options = {**model.model_options["transformer_options"], "wrappers": model.wrappers}
    context = cond["cross_attn"].expand(len(latent), -1, -1)
    velocity = model.model.diffusion_model(
        latent, 1000 * sigma.expand(len(latent)), context, transformer_options=options, **extra
    )
    return latent - sigma * velocity
