"""The host's objects around our modules: a Wan model that takes references behind the video, its patcher, a VAE."""

from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from comfy.ldm.modules.attention import optimized_attention
from comfy.patcher_extension import WrappersMP, run_wrapped
from kaleido_core import KaleidoDiT, WanVAE, load_dit, load_vae, rotary_angles
from kaleido_core.config import LATENT_MEAN, LATENT_STD
from kaleido_core.dit.attention import merge_heads, split_heads
from kaleido_core.dit.model import timestep_embedding
from kaleido_core.dit.patchify import patch_grid, unpatchify

NOTHING: dict[str, Any] = {}
OLD_TEXT_WIDTH: int | None = None  # what a release before 0.15.1 insists on


def process_in(latent: Tensor) -> Tensor:
    """The host's raw latent -> normalised."""
    mean, std = (torch.tensor(values).view(1, -1, 1, 1, 1) for values in (LATENT_MEAN, LATENT_STD))
    return (latent - mean) / std


def process_out(latent: Tensor) -> Tensor:
    mean, std = (torch.tensor(values).view(1, -1, 1, 1, 1) for values in (LATENT_MEAN, LATENT_STD))
    return latent * std + mean


class WanDouble(nn.Module):
    """KaleidoDiT with its tokens in the host's order: video, then references, as one longer video."""

    model_type, in_dim = "t2v", 16

    def __init__(self, dit: KaleidoDiT):
        super().__init__()
        self.dit = dit
        config = dit.config
        self.num_layers, self.dim, self.num_heads = config.num_layers, config.width, config.num_heads
        self.ffn_dim, self.text_dim = config.mlp_width, config.text_width

    def rope_encode(self, t, h, w, t_start=0, device=None, dtype=None, transformer_options=NOTHING, **others) -> Tensor:
        options = transformer_options.get("rope_options") or {}
        starts = (t_start + options.get("shift_t", 0), options.get("shift_y", 0), options.get("shift_x", 0))
        scales = (options.get("scale_t", 1), options.get("scale_y", 1), options.get("scale_x", 1))
        axes = [
            start + scale * torch.arange(count, dtype=torch.float32)
            for start, scale, count in zip(starts, scales, (t, h // 2, w // 2), strict=True)
        ]
        return rotary_angles(torch.cartesian_prod(*axes), self.dim // self.num_heads)[None]

    def forward(self, x, timestep, context, clip_fea=None, time_dim_concat=None, transformer_options=NOTHING, **others):
        wrappers = transformer_options.get("wrappers", {}).get(WrappersMP.DIFFUSION_MODEL, {}).values()
        arguments = x, timestep, context, clip_fea, time_dim_concat, transformer_options
        return run_wrapped(self._forward, [w for group in wrappers for w in group], *arguments, **others)

    def _forward(
        self, x, timestep, context, clip_fea=None, time_dim_concat=None, transformer_options=NOTHING, **others
    ):
        dit, frames = self.dit, x.shape[2]
        if time_dim_concat is not None:
            x = torch.cat([x, time_dim_concat], dim=2)
        grid = patch_grid(x, dit.config.patch_size)
        angles = self.rope_encode(x.shape[2], *x.shape[-2:], transformer_options=transformer_options)[0]
        tokens = dit.patch_embedding(x)
        time = dit.time_embedding(timestep_embedding(timestep.float(), dit.config.frequency_width))
        modulation = dit.time_projection(time).unflatten(1, (6, -1))
        context = dit.text_embedding(context)

        def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            joined = (merge_heads(part) for part in (query, key, value))
            mixed = optimized_attention(*joined, heads=self.num_heads, transformer_options=transformer_options)
            return split_heads(mixed, self.num_heads)

        for layer in dit.modules():
            if hasattr(layer, "attend"):
                layer.attend = attend  # pyright: ignore[reportArgumentType]
        for block in dit.blocks:
            tokens = block(tokens, modulation, context, (angles.cos(), angles.sin()))
        return unpatchify(dit.head(tokens, time), grid, dit.config.patch_size)[:, :, :frames]


class ModelPatcher:
    def __init__(self, network: nn.Module):
        self.model = SimpleNamespace(diffusion_model=network)
        self.object_patches: dict[str, Any] = {}
        self.wrappers: dict[str, dict[str, list[Any]]] = {}
        self.model_options: dict[str, Any] = {"transformer_options": {}}
        self.load_device = torch.device("cpu")

    def clone(self) -> "ModelPatcher":
        copy = ModelPatcher(self.model.diffusion_model)
        copy.object_patches = dict(self.object_patches)
        copy.wrappers = {kind: {key: list(w) for key, w in keys.items()} for kind, keys in self.wrappers.items()}
        copy.model_options = deepcopy(self.model_options)  # as 0.8.0 does
        return copy

    def model_size(self) -> int:
        return sum(value.nbytes for value in self.model.diffusion_model.parameters())

    def get_model_object(self, name: str) -> Any:
        if name in self.object_patches:
            return self.object_patches[name]
        value: Any = self.model
        for part in name.split("."):
            value = getattr(value, part)
        return value

    def add_object_patch(self, name: str, obj: Any) -> None:
        self.object_patches[name] = obj

    def set_model_sampler_calc_cond_batch_function(self, function: Any) -> None:
        self.model_options["sampler_calc_cond_batch_function"] = function

    def set_model_sampler_post_cfg_function(self, change: Any, disable_cfg1_optimization: bool = False) -> None:
        self.model_options.setdefault("sampler_post_cfg_function", []).append(change)
        if disable_cfg1_optimization:
            self.model_options["disable_cfg1_optimization"] = True

    def add_wrapper_with_key(self, wrapper_type: str, key: str, wrapper: Any) -> None:
        self.wrappers.setdefault(wrapper_type, {}).setdefault(key, []).append(wrapper)

    def remove_wrappers_with_key(self, wrapper_type: str, key: str) -> None:
        self.wrappers.get(wrapper_type, {}).pop(key, None)


class VAE:
    def __init__(self, sd: dict[str, Tensor]):
        self.vae: WanVAE = load_vae("tiny")
        assert set(sd) == set(self.vae.state_dict())

    def encode(self, pixels: Tensor) -> Tensor:
        """IMAGE ``[F H W 3]`` in 0..1 -> raw latent ``[1 16 T h w]``."""
        return process_out(self.vae.encode((pixels * 2 - 1).movedim(-1, 0)[None]))

    def decode(self, latent: Tensor) -> Tensor:
        return ((self.vae.decode(process_in(latent)) + 1) / 2).movedim(1, -1)


class CLIP:
    def __init__(self, target: Any, embedding_directory: Any = None, parameters: int = 0):
        self.encoder = target.clip(device="cpu", dtype=torch.float32, model_options={}, **target.params)
        self.tokenizer = target.tokenizer(embedding_directory=embedding_directory, tokenizer_data={})


def encode_text(clip: CLIP, text: str) -> list[Any]:
    """What CLIP Text Encode gives."""
    cond, pooled = clip.encoder.encode_token_weights(clip.tokenizer.tokenize_with_weights(text))
    return [[cond, {"pooled_output": pooled}]]


def load_diffusion_model_state_dict(
    sd: dict[str, Tensor], model_options: Any = None, metadata: Any = None
) -> ModelPatcher:
    dit = load_dit("tiny", dtype=torch.float32)
    width = sd["text_embedding.0.weight"].shape[1]
    if OLD_TEXT_WIDTH not in (None, width):
        raise RuntimeError(f"size mismatch for text_embedding.0.weight: {width}")
    wider = nn.Linear(width, dit.config.width)
    wider.weight.data, wider.bias.data = sd["text_embedding.0.weight"].float(), dit.text_embedding[0].bias.data  # pyright: ignore
    dit.text_embedding[0] = wider
    return ModelPatcher(WanDouble(dit).requires_grad_(False))


def load_diffusion_model(unet_path: str, model_options: Any = None) -> ModelPatcher:
    return ModelPatcher(WanDouble(load_dit(unet_path, dtype=torch.float32)).requires_grad_(False))
