"""Everything that touches ComfyUI's internals, so that a change over there is mended here."""

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import comfy.model_management
import comfy.patcher_extension
import comfy.sample
import comfy.samplers
import comfy.sd
import comfy.utils
import folder_paths
import latent_preview
import node_helpers
import torch
from comfy.cli_args import args as host_arguments
from comfy_api.latest import io
from comfyui_version import __version__ as host_version
from server import PromptServer
from torch import Tensor

from ..kaleido_core.checkpoints.load import ASSETS, TINY, model_path
from ..kaleido_core.checkpoints.sizes import HOST_TEXT_WIDTH
from ..kaleido_core.config import DiTConfig
from ..kaleido_core.errors import CheckpointError, ShapeError
from ..kaleido_core.offloading.arithmetic import parameters_of
from ..kaleido_core.offloading.memory_plan import Machine
from .attention_override import OVERRIDE, override_attention
from .demo_text import DemoTextEncoder, DemoTokenizer
from .model_patch import CONDITION, ReferenceRope, count_in_forward, count_in_memory, without_references

logger = logging.getLogger("kaleido.nodes")

Model = Any  # the host's ModelPatcher
Latent = dict[str, Any]  # the host's LATENT: "samples" [B 16 T H W], not normalised
Conditioning = list[Any]

RELEASE = tuple(int(part) for part in host_version.split(".")[:3] if part.isdecimal())
MODERN = (0, 15, 1)  # releases from here on read a Wan file's text width from its metadata
# Before, the page shows none of a growing input's sockets unless one is asked for; the server does not insist on it.
FEWEST_SOCKETS = 0 if RELEASE >= MODERN else 1
ROPE = "diffusion_model.rope_encode"
KEY = "kaleido"
WEIGHT_DTYPES: dict[str, dict[str, Any]] = {
    "default": {},
    "fp8_e4m3fn": {"dtype": torch.float8_e4m3fn},
    "fp8_e4m3fn_fast": {"dtype": torch.float8_e4m3fn, "fp8_optimizations": True},
    "fp8_e5m2": {"dtype": torch.float8_e5m2},
}


def node_schema(**fields: Any) -> io.Schema:
    """A schema without the fields that this release does not know; one of those would cost us the whole pack."""
    known = {field.name for field in dataclasses.fields(io.Schema)}
    return io.Schema(**{name: value for name, value in fields.items() if name in known})


# Models


def list_demo_files() -> None:
    """Show the embedded files in the stock loaders' lists; the transformer only where its text width is understood."""
    for folder in ("diffusion_models", "vae") if RELEASE >= MODERN else ("vae",):
        folder_paths.add_model_folder_path(folder, str(ASSETS / folder))


def model_files() -> list[str]:
    return folder_paths.get_filename_list("diffusion_models")


def model_file(name: str, folder: str = "diffusion_models") -> Path:
    return Path(folder_paths.get_full_path_or_raise(folder, name))


def load_model(path: Path, weight_dtype: str) -> Model:
    return comfy.sd.load_diffusion_model(str(path), model_options=dict(WEIGHT_DTYPES[weight_dtype]))


def load_demo() -> tuple[Model, Any, Any]:
    """MODEL, CLIP and VAE of the embedded model."""
    state, metadata = comfy.utils.load_torch_file(str(model_path(TINY, "dit")), return_metadata=True)
    model = _load_demo_dit(state, metadata)
    vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(model_path(TINY, "vae"))))
    return model, comfy.sd.CLIP(_DemoText, embedding_directory=None), vae


class _DemoText:
    """What the host's CLIP wants to know of an encoder."""

    params: ClassVar[dict[str, Any]] = {}
    clip = DemoTextEncoder
    tokenizer = DemoTokenizer


def _load_demo_dit(state: dict[str, Tensor], metadata: Mapping[str, str]) -> Model:
    if RELEASE >= MODERN:
        return comfy.sd.load_diffusion_model_state_dict(dict(state), metadata=metadata)
    # Older releases read text of one width only: more columns, of zeros, change nothing.
    state = {**state, "text_embedding.0.weight": _widen(state["text_embedding.0.weight"])}
    model = comfy.sd.load_diffusion_model_state_dict(state)
    model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, KEY + "_text", _widen_context)
    return model


def _widen(values: Tensor) -> Tensor:
    """Zeros behind the last axis, up to the text width that the host assumes."""
    return torch.nn.functional.pad(values, (0, HOST_TEXT_WIDTH - values.shape[-1]))


def _widen_context(
    executor: Callable[..., Tensor], x: Tensor, timestep: Tensor, context: Tensor, *rest: Any, **others: Any
):
    return executor(x, timestep, _widen(context), *rest, **others)


def make_kaleido(model: Model) -> Model:
    """A clone whose reference frames have Kaleido's positions; the same once as twice, before a LoRA as behind it."""
    _require_wan(model)
    patched = model.clone()
    rope = model.get_model_object(ROPE)
    if not isinstance(rope, ReferenceRope):
        patched.add_object_patch(ROPE, ReferenceRope(rope))
    kinds = comfy.patcher_extension.WrappersMP
    for kind, wrapper in ((kinds.DIFFUSION_MODEL, count_in_forward), (kinds.PREPARE_SAMPLING, count_in_memory)):
        patched.remove_wrappers_with_key(kind, KEY)
        patched.add_wrapper_with_key(kind, KEY, wrapper)
    return patched


def with_attention(model: Model, kernel: str) -> Model:
    """A clone that computes attention by ``kernel``, one of the core's ``KERNELS``."""
    _require_wan(model)
    patched = model.clone()
    options = patched.model_options["transformer_options"]
    options[OVERRIDE] = override_attention(kernel, options.get(OVERRIDE))
    return patched


def _require_wan(model: Model) -> None:
    network = model.model.diffusion_model
    kind = getattr(network, "model_type", None)
    if not hasattr(network, "rope_encode") or kind != "t2v" or getattr(network, "in_dim", 16) != 16:
        what = type(network).__name__ + (f" ({kind})" if kind else "")
        raise CheckpointError(
            f"This model is a {what}; Kaleido is a Wan 2.1 text-to-video model with 16 latent channels. "
            "Load a Kaleido file with Kaleido Load Model or Load Diffusion Model."
        )


def config_of(model: Model) -> tuple[DiTConfig, float]:
    """A Wan MODEL's sizes, and its bytes a parameter: packed weights have fewer elements than parameters."""
    _require_wan(model)
    network = model.model.diffusion_model
    config = DiTConfig(
        num_layers=network.num_layers,
        width=network.dim,
        num_heads=network.num_heads,
        mlp_width=network.ffn_dim,
        text_width=network.text_dim,
    )
    return config, model.model_size() / parameters_of(config)


# Sampling


def pixel_encoder(vae: Any) -> Callable[[Tensor], Tensor]:
    """The host's VAE as ``encode_references`` wants it: pixels ``[1 3 1 H W]`` in -1..1 -> its own raw latent."""

    def encode(pixels: Tensor) -> Tensor:
        latent = vae.encode((pixels[0].movedim(0, -1) + 1) / 2)  # [1 H W 3] in 0..1
        wanted = [1, 16, 1, pixels.shape[-2] // 8, pixels.shape[-1] // 8]
        if list(latent.shape) != wanted:
            raise ShapeError(
                f"This VAE gives a latent of {list(latent.shape)}; Kaleido reads {wanted}. Use the Wan 2.1 VAE, or the "
                "demo model's own."
            )
        return latent

    return encode


def with_references(conditioning: Conditioning, references: Sequence[Tensor]) -> Conditioning:
    """The conditioning with raw reference latents ``[1 16 1 h w]`` beside the text."""
    if not references:
        return conditioning
    return node_helpers.conditioning_set_values(conditioning, {CONDITION: torch.cat(list(references), dim=2)})


def empty_latent(shape: Sequence[int]) -> Latent:
    return {"samples": torch.zeros(tuple(shape), device=comfy.model_management.intermediate_device())}


def has_references(conditioning: Conditioning) -> bool:
    return any(CONDITION in values for _, values in conditioning)


def with_reference_guidance(model: Model, scale: float, branch: int) -> Model:
    """The model guided by its references too, as ``sampling.speed.sample_at`` does; for one run, as it keeps a push.

    ``branch``: 1 pushes the negative away from what it gives without references, 0 the positive. One call computes
    all, since caches of steps decide once a call what to skip. The push comes behind the guidance by the text, since
    patches that look at the branches there must find them as the model gave them.
    """
    guided = model.clone()
    earlier = guided.model_options.get("sampler_calc_cond_batch_function")
    push = torch.zeros(())

    def predict(args: dict[str, Any]) -> list[Tensor]:
        nonlocal push
        bare = [without_references(cond) for cond in args["conds"][branch]]
        *outs, out = _predict_also(bare, args, earlier)
        push = (scale - 1) * (outs[branch] - out)
        return outs

    guided.set_model_sampler_calc_cond_batch_function(predict)
    guided.set_model_sampler_post_cfg_function(lambda args: args["denoised"] + push)
    return guided


def _predict_also(bare: list[Any], args: dict[str, Any], earlier: Callable[..., list[Tensor]] | None) -> list[Tensor]:
    """The branches' clean latents and, last, that of ``bare``; another patch's function knows two branches only."""
    rest = args["input"], args["sigma"], args["model_options"]
    if earlier is None:
        return comfy.samplers.calc_cond_batch(args["model"], [*args["conds"], bare], *rest)
    return [*earlier(args), *comfy.samplers.calc_cond_batch(args["model"], [bare], *rest)]


def sample_euler(
    model: Model,
    positive: Conditioning,
    negative: Conditioning,
    latent: Latent,
    seed: int,
    sigmas: Tensor,
    cfg: float,
    reference_cfg: float,
) -> Latent:
    """The host's own sampling, with its previews, progress bar and cancel button."""
    branch = 0 if math.isclose(cfg, 1.0) else 1  # the host's rule; at 1 the references guide the positive branch
    by_references = reference_cfg != 1 and has_references(positive) and has_references((positive, negative)[branch])
    samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
    result = comfy.sample.sample_custom(
        with_reference_guidance(model, reference_cfg, branch) if by_references else model,
        comfy.sample.prepare_noise(samples, seed, latent.get("batch_index")),
        cfg,
        comfy.samplers.sampler_object("euler"),
        sigmas,
        positive,
        negative,
        samples,
        noise_mask=latent.get("noise_mask"),
        callback=latent_preview.prepare_callback(model, len(sigmas) - 1),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seed,
    )
    return {**latent, "samples": result}


# Files, texts, machine


def output_place(prefix: str, width: int, height: int) -> tuple[Path, str, str, int]:
    """Folder, its name below the output folder, the file's stem and the next free number."""
    folder, stem, counter, subfolder, _ = folder_paths.get_save_image_path(
        prefix, folder_paths.get_output_directory(), width, height
    )
    return Path(folder), subfolder, stem, counter


def base_folder() -> Path:
    """Where the input, output and model folders lie, unless they were moved."""
    return Path(folder_paths.base_path)


def may_save_workflow() -> bool:
    return not host_arguments.disable_metadata


def input_file(name: str) -> Path:
    """A file as Load Image names it."""
    return Path(folder_paths.get_annotated_filepath(name))


def show_text(node_id: str | None, text: str) -> None:
    """Words on the node itself, where the page can show them, and in the log."""
    logger.warning(text)
    server = getattr(PromptServer, "instance", None)
    if node_id is not None and server is not None:
        server.send_progress_text(text, node_id)


def this_machine() -> Machine:
    memory = comfy.model_management.get_total_memory
    return Machine(vram=memory(comfy.model_management.get_torch_device()), ram=memory(torch.device("cpu")))
