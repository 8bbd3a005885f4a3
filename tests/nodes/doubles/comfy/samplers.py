from typing import Any

import torch
from torch import Tensor

from comfy.sd import ModelPatcher, process_in


def sampler_object(name: str) -> str:
    assert name == "euler"
    return name


def calc_cond_batch(model: ModelPatcher, conds: list[Any], x: Tensor, timestep: Tensor, options: Any) -> list[Tensor]:
    """The clean latent that each branch foretells; zeros for a branch that is None."""
    return [torch.zeros_like(x) if branch is None else _denoise(model, x, timestep, branch[0]) for branch in conds]


@torch.no_grad()
def _denoise(model: ModelPatcher, latent: Tensor, sigma: Tensor, cond: dict[str, Any]) -> Tensor:
    extra = {}
    if "time_dim_concat" in cond["model_conds"]:
        latents = process_in(cond["model_conds"]["time_dim_concat"])
        extra["time_dim_concat"] = latents.expand(len(latent), -1, -1, -1, -1)
    options = {**model.model_options["transformer_options"], "wrappers": model.wrappers}
    context = cond["cross_attn"].expand(len(latent), -1, -1)
    velocity = model.model.diffusion_model(
        latent, 1000 * sigma.expand(len(latent)), context, transformer_options=options, **extra
    )
    return latent - sigma * velocity
