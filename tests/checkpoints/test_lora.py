"""LoRA files of every common spelling, added to the weights of a model."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from kaleido_core import DiTConfig, KaleidoDiT, load_dit
from kaleido_core.checkpoints.layouts import DIT_DIFFUSERS, theirs
from kaleido_core.checkpoints.lora import Lora, merge_lora, read_lora
from kaleido_core.errors import CheckpointError, ConfigError
from kaleido_core.generate import Request, load_models
from kaleido_core.quantization.int8 import Int8Linear

LAYERS = ("blocks.0.self_attn.q", "blocks.1.self_attn.o", "blocks.1.cross_attn.v", "blocks.0.ffn.0", "blocks.1.ffn.2")
RANK, ALPHA = 2, 6.0


def model(dtype: torch.dtype = torch.float32) -> KaleidoDiT:
    torch.manual_seed(0)
    return KaleidoDiT(DiTConfig(2, 24, 2, 40, 8), dtype=dtype).requires_grad_(False)


def factors(layer: str) -> tuple[Tensor, Tensor]:
    """down ``[rank in]`` and up ``[out rank]``."""
    out, inside = model().get_parameter(f"{layer}.weight").shape
    generator = torch.Generator().manual_seed(len(layer))
    return torch.randn(RANK, inside, generator=generator), torch.randn(out, RANK, generator=generator)


def diffusers(layer: str) -> str:
    return theirs(layer, DIT_DIFFUSERS)[0].key


SPELLINGS: dict[str, tuple[Callable[[str], str], str, str]] = {
    "comfyui": (lambda layer: f"diffusion_model.{layer}", "lora_A", "lora_B"),
    "comfyui down": (lambda layer: f"diffusion_model.{layer}", "lora_down", "lora_up"),
    "bare": (lambda layer: layer, "lora_A.default", "lora_B.default"),
    "peft": (lambda layer: f"base_model.model.{diffusers(layer)}", "lora_A", "lora_B"),
    "diffusers": (lambda layer: f"transformer.{diffusers(layer)}", "lora_A", "lora_B"),
    "old diffusers": (lambda layer: f"transformer.{diffusers(layer)}", "lora.down", "lora.up"),
    "kohya": (lambda layer: "lora_unet_" + layer.replace(".", "_"), "lora_down", "lora_up"),
    "kohya twice": (lambda layer: "lora_unet__" + layer.replace(".", "_"), "lora_down", "lora_up"),
    "kohya diffusers": (lambda layer: "lora_unet_" + diffusers(layer).replace(".", "_"), "lora_down", "lora_up"),
    "half kohya": (lambda layer: "lora_unet_" + layer.replace(".", "_", 1), "lora_down", "lora_up"),
}


def write(path, spelling: str = "comfyui", alpha: bool = True, extra: dict[str, Tensor] | None = None) -> str:
    name, down, up = SPELLINGS[spelling]
    tensors: dict[str, Tensor] = dict(extra or {})
    for layer in LAYERS:
        first, second = factors(layer)
        tensors |= {f"{name(layer)}.{down}.weight": first, f"{name(layer)}.{up}.weight": second}
        if alpha:
            tensors[f"{name(layer)}.alpha"] = torch.tensor(ALPHA)
    save_file({key: value.contiguous() for key, value in tensors.items()}, path)
    return str(path)


def assert_merged(merged: KaleidoDiT, scale: float) -> None:
    for name, before in model().named_parameters():
        layer = name.removesuffix(".weight")
        down, up = factors(layer) if layer in LAYERS else (torch.zeros(1, 1), torch.zeros(1, 1))
        expected = before + scale * (up @ down) if layer in LAYERS else before
        torch.testing.assert_close(merged.get_parameter(name), expected, rtol=0, atol=1e-5, msg=name)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_changes_the_same_weights(tmp_path, spelling: str):
    dit = model()
    merge_lora(dit, Lora(write(tmp_path / "a.safetensors", spelling)))
    assert_merged(dit, ALPHA / RANK)


def test_strength_scales_and_no_alpha_means_the_rank(tmp_path):
    dit, path = model(), write(tmp_path / "a.safetensors", alpha=False)
    merge_lora(dit, read_lora(f"{path}:0.25"))
    assert_merged(dit, 0.25)
    merge_lora(dit, read_lora(f"{path}:-0.25"))
    assert_merged(dit, 0.0)


def test_distilled_files_bring_plain_differences_too(tmp_path):
    differences = {
        "diffusion_model.blocks.0.norm3.diff": torch.full((24,), 0.5),
        "diffusion_model.blocks.0.self_attn.norm_q.diff": torch.full((24,), 0.25),
        "diffusion_model.blocks.0.self_attn.q.diff_b": torch.full((24,), 2.0),
        "diffusion_model.blocks.0.diff_m": torch.full((1, 6, 24), 3.0),
        "diffusion_model.patch_embedding.diff": torch.full((24, 16, 1, 2, 2), 4.0),
    }
    dit, before = model(), model()
    merge_lora(dit, Lora(write(tmp_path / "a.safetensors", extra=differences), 2.0))
    added = {"blocks.0.norm3.weight": 1.0, "blocks.0.self_attn.norm_q.weight": 0.5, "blocks.0.self_attn.q.bias": 4.0}
    for name, value in {**added, "blocks.0.modulation": 6.0, "patch_embedding.weight": 8.0}.items():
        torch.testing.assert_close(dit.get_parameter(name) - before.get_parameter(name), torch.tensor(value).expand_as(
            before.get_parameter(name)), rtol=0, atol=1e-5, msg=name)  # fmt: skip


def test_a_weight_in_bfloat16_gets_the_float32_sum_rounded_once(tmp_path):
    dit, exact = model(torch.bfloat16), model(torch.bfloat16).float()
    lora = Lora(write(tmp_path / "a.safetensors"), 0.1)
    merge_lora(dit, lora)
    merge_lora(exact, lora)
    assert all(torch.equal(a, b.bfloat16()) for a, b in zip(dit.parameters(), exact.parameters(), strict=True))


@pytest.mark.parametrize(("extra", "words"), [
    ({f"diffusion_model.blocks.{i}.cross_attn.k_img.lora_A.weight": torch.zeros(2, 24) for i in range(7)},
     r"layers that this model has not: .*k_img.* and 2 more"),
    ({"diffusion_model.blocks.0.self_attn.q.dora_scale": torch.zeros(24)}, "strange to us: .*dora_scale"),
    ({"diffusion_model.blocks.0.self_attn.k.lora_A.weight": torch.zeros(2, 24)}, "a pair is not whole"),
    ({"diffusion_model.blocks.0.self_attn.q.diff_b": torch.zeros(48)}, "another size"),
])  # fmt: skip
def test_what_does_not_fit_is_named(tmp_path, extra, words):
    with pytest.raises(CheckpointError, match=words):
        merge_lora(model(), Lora(write(tmp_path / "a.safetensors", extra=extra)))


def test_a_lora_of_a_larger_model_and_a_file_without_any_are_refused(tmp_path):
    path = write(tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="another size"):
        merge_lora(KaleidoDiT(DiTConfig(2, 48, 2, 40, 8)), Lora(path))
    save_file({"blocks.0.self_attn.q.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="no LoRA"):
        Lora(tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match="strength nan"):
        read_lora(f"{path}:nan")
    with pytest.raises(CheckpointError, match="does not exist"):
        read_lora(str(tmp_path / "a:b.safetensors"))


def test_loras_are_merged_into_a_loaded_model_before_it_goes_to_eight_bits(tmp_path):
    layer, path = "blocks.0.self_attn.q", tmp_path / "a.safetensors"
    up, down = torch.randn(2, 256, 2, generator=torch.Generator().manual_seed(0))
    pair = {f"diffusion_model.{layer}.lora_A.weight": down.t(), f"diffusion_model.{layer}.lora_B.weight": up}
    save_file({key: value.contiguous() for key, value in pair.items()}, path)
    request = Request("x", loras=(f"{path}:0.5", f"{path}:0.25"))
    expected = load_dit("tiny", dtype=torch.float32).get_parameter(f"{layer}.weight") + 0.75 * up @ down.t()
    merged = load_models(request).dit.get_submodule(layer)
    torch.testing.assert_close(merged.weight, expected, rtol=0, atol=1e-5)
    eight = load_models(replace(request, eight_bit="int8")).dit.get_submodule(layer)
    assert isinstance(eight, Int8Linear)
    error = (eight.weight.float() * eight.scale[:, None] - expected).abs()
    assert (error <= eight.scale[:, None] * 0.501).all()
