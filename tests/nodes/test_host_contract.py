"""What nodes/comfy_adapter.py asks of ComfyUI is there in every supported release that was recorded."""

import re

import pytest

from .conftest import ROOT

# Recorded function -> the arguments we give it. Patched functions: what we replace or wrap must keep.
ASKED = {
    "comfy/model_patcher.py:ModelPatcher.clone": (),
    "comfy/model_patcher.py:ModelPatcher.add_object_patch": ("name", "obj"),
    "comfy/model_patcher.py:ModelPatcher.get_model_object": ("name",),
    "comfy/model_patcher.py:ModelPatcher.add_wrapper_with_key": ("wrapper_type", "key", "wrapper"),
    "comfy/model_patcher.py:ModelPatcher.remove_wrappers_with_key": ("wrapper_type", "key"),
    "comfy/patcher_extension.py:WrappersMP": ("DIFFUSION_MODEL", "PREPARE_SAMPLING"),
    "comfy/ldm/wan/model.py:WanModel.rope_encode": ("t", "h", "w", "t_start", "transformer_options"),
    "comfy/ldm/wan/model.py:WanModel.forward": (
        "x", "timestep", "context", "clip_fea", "time_dim_concat", "transformer_options",
    ),
    "comfy/ldm/modules/attention.py:attention_pytorch": (
        "q", "k", "v", "heads", "mask", "attn_precision", "skip_reshape", "skip_output_reshape",
    ),
    "comfy/sampler_helpers.py:prepare_sampling": ("model", "noise_shape", "conds"),
    "comfy/sd.py:load_diffusion_model": ("unet_path", "model_options"),
    "comfy/sd.py:load_diffusion_model_state_dict": ("sd", "metadata"),
    "comfy/sd.py:VAE.__init__": ("sd",),
    "comfy/sd.py:VAE.encode": ("pixel_samples",),
    "comfy/sd.py:CLIP.__init__": ("target", "embedding_directory"),
    "comfy/model_patcher.py:ModelPatcher.model_size": (),
    "comfy/sample.py:sample_custom": (
        "model", "noise", "cfg", "sampler", "sigmas", "positive", "negative", "latent_image", "noise_mask", "callback",
        "disable_pbar", "seed",
    ),
    "comfy/sample.py:prepare_noise": ("latent_image", "seed", "noise_inds"),
    "comfy/sample.py:fix_empty_latent_channels": ("model", "latent_image"),
    "comfy/samplers.py:sampler_object": ("name",),
    "comfy/samplers.py:calc_cond_batch": ("model", "conds", "x_in", "timestep", "model_options"),
    "comfy/model_patcher.py:ModelPatcher.set_model_sampler_calc_cond_batch_function": (
        "sampler_calc_cond_batch_function",
    ),
    "comfy/model_patcher.py:ModelPatcher.set_model_sampler_post_cfg_function": ("post_cfg_function",),
    "comfy/utils.py:load_torch_file": ("ckpt", "return_metadata"),
    "comfy/model_management.py:get_torch_device": (),
    "comfy/model_management.py:intermediate_device": (),
    "comfy/model_management.py:get_total_memory": ("dev",),
    "folder_paths.py:add_model_folder_path": ("folder_name", "full_folder_path"),
    "folder_paths.py:get_annotated_filepath": ("name",),
    "folder_paths.py:get_filename_list": ("folder_name",),
    "folder_paths.py:get_full_path_or_raise": ("folder_name", "filename"),
    "folder_paths.py:get_output_directory": (),
    "folder_paths.py:get_save_image_path": ("filename_prefix", "output_dir", "image_width", "image_height"),
    "server.py:PromptServer.send_progress_text": ("text", "node_id"),
    "node_helpers.py:conditioning_set_values": ("conditioning", "values"),
    "comfy_api/latest/_io.py:Autogrow.Input": ("id", "template", "tooltip"),
    "latent_preview.py:prepare_callback": ("model", "steps"),
}  # fmt: skip


@pytest.mark.parametrize("function", ASKED)
def test_every_supported_release_has_what_we_call(golden, function: str):
    recorded = {
        release: names for release, names in golden.info("host_contract")[function].items() if supported(release)
    }
    assert len(recorded) == 5
    for release, names in recorded.items():
        assert names is not None, release
        missing = [name for name in ASKED[function] if not re.search(rf"\b{name}\b", names)]
        assert not missing, (release, names)


def supported(release: str) -> bool:
    return tuple(map(int, release.split("."))) >= (0, 8, 0)


def test_what_is_asked_stands_in_the_adapter():
    source = "".join((ROOT / "nodes" / name).read_text() for name in ("comfy_adapter.py", "model_patch.py"))
    names = {
        function.rpartition(".")[2] if function.count(".") > 1 else function.rpartition(":")[2] for function in ASKED
    }
    known = {
        "forward",
        "__init__",
        "Input",
        "encode",
        "prepare_sampling",
        "attention_pytorch",
    }  # hooked, or called under the class's name
    assert not [name for name in names - known if name not in source]
