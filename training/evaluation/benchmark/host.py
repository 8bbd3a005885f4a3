"""ComfyUI's own model and autoencoder, from the checkout that was named; nothing of it is imported before."""

import json
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kaleido_core import WanVAE
from kaleido_core.vae.model import TEMPORAL_DOWN

from .scale import Inputs

ROOT = Path(__file__).parents[3]
PACK = "kaleido_pack"  # the name that our nodes have here


def open_host(checkout: Path, device: torch.device) -> None:
    """Make the host's modules importable, with its default settings."""
    checkout = checkout.resolve()
    if not (checkout / "comfy").is_dir():
        raise FileNotFoundError(f"{checkout} holds no folder comfy; name a checkout of ComfyUI 0.8.0 or newer.")
    if str(checkout) not in sys.path:
        sys.path.insert(0, str(checkout))  # before the repository, whose "nodes" is not the host's
    import_module("comfy.cli_args").args.cpu = device.type == "cpu"
    if device.type == "cuda" and find_spec("comfy_aimdo"):
        import_module("comfy_aimdo.control").init()  # before the host's modules look for it, as its main.py does


def our_nodes() -> Any:
    """Import our nodes as an open host would; gives their adapter."""
    if PACK not in sys.modules:
        spec = spec_from_file_location(PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
        assert spec and spec.loader
        sys.modules[PACK] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules[PACK])
    return import_module(f"{PACK}.nodes.comfy_adapter")


def about_host() -> str:
    """Version, attention and the extensions in use, which decide what the host's figures mean."""
    kernels = import_module("comfy.quant_ops").ck.list_backends()
    used = [name for name, state in kernels.items() if state["available"] and not state["disabled"]]
    attention = import_module("comfy.ldm.modules.attention").optimized_attention.__name__
    version = import_module("comfyui_version").__version__
    return f"{version}, {attention}, comfy_kitchen with {', '.join(used)}"


def host_model(
    weights: dict[str, Tensor], text_width: int, device: torch.device, offload: torch.device | None = None
) -> Any:
    """The host's model of these weights, as its loader makes it; without ``offload`` they begin on ``device``."""
    options = {"load_device": device, "offload_device": offload or device}
    metadata = {"config": json.dumps({"transformer": {"text_dim": text_width}})}
    load = import_module("comfy.sd").load_diffusion_model_state_dict
    return load(dict(weights), model_options=options, metadata=metadata)


def host_forward(model: Any, inputs: Inputs, whole: bool = True) -> Callable[[], Tensor]:
    """Gives the velocity, as a sampler of the host would have it from ``model``; ``whole``: all weights on the card."""
    shape = inputs.latent.shape
    pair, one = (model.model.memory_required([count, *shape[1:]]) for count in (2, 1))
    import_module("comfy.model_management").load_models_gpu(
        [model], memory_required=pair, minimum_memory_required=one, force_full_load=whole
    )
    options = {**model.model_options["transformer_options"], "wrappers": model.wrappers}
    references = torch.cat(inputs.references, dim=2)

    def velocity() -> Tensor:
        denoised = model.model.apply_model(
            inputs.latent,
            inputs.sigma,
            c_crossattn=inputs.context,
            time_dim_concat=references,
            transformer_options=options,
        )
        return (inputs.latent - denoised) / inputs.sigma

    return velocity


def allow_dynamic_vram(device: torch.device, others: int) -> None:
    """As the host's ``main.py`` turns it on, for models loaded from now on; ``others``: bytes of the card it leaves."""
    control = import_module("comfy_aimdo.control")
    control.init(simple_vram_headroom=others)
    memory: Any = import_module("comfy.memory_management")
    if not memory.aimdo_enabled:
        if not control.init_devices([(device.index, 0)]):
            raise RuntimeError("comfy-aimdo does not work here")
        patcher: Any = import_module("comfy.model_patcher")
        patcher.CoreModelPatcher = patcher.ModelPatcherDynamic
        memory.aimdo_enabled = True


def host_vae(checkout: Path, model: WanVAE, device: torch.device) -> Any:
    """The host's autoencoder with the weights of ``model``, in its own layout; it reads and gives raw latents."""
    open_host(checkout, device)
    host = import_module("comfy.ldm.wan.vae").WanVAE(
        dim=model.config.base_width, z_dim=model.config.latent_channels, temperal_downsample=list(TEMPORAL_DOWN)
    )
    host.load_state_dict(model.state_dict())
    return host.to(device, torch.bfloat16).requires_grad_(False)
