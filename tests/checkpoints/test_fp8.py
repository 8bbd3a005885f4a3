"""Scaled eight-bit files, old and new, load to value * scale."""

import json

import pytest
import torch

from kaleido_core.checkpoints import fp8
from kaleido_core.checkpoints.layouts import TEXT_TRANSFORMERS, export
from kaleido_core.checkpoints.load import load_dit, load_text_encoder
from kaleido_core.errors import CheckpointError

PREFIX = "model.diffusion_model."


def quantised(tensors, style, prefix=""):
    """A ComfyUI file in one of its styles, and its metadata."""
    out, layers = {}, {}
    for name, tensor in tensors.items():
        layer = prefix + name.removesuffix(".weight")
        if tensor.ndim != 2 or not name.startswith(("blocks.", "encoder.block.")) or "relative_attention" in name:
            out[prefix + name] = tensor
            continue
        out[prefix + name], scale = fp8.quantise(tensor)
        if style == "scaled_fp8":
            out[f"{layer}.scale_weight"], out[f"{layer}.scale_input"] = scale.reshape(1), torch.ones(1)
        else:
            out[f"{layer}.weight_scale"], layers[layer] = scale, {"format": "float8_e4m3fn"}
            if style == "comfy_quant":
                out[f"{layer}.comfy_quant"] = fp8.describe_layer()
    if style == "scaled_fp8":
        out[prefix + "scaled_fp8"] = torch.empty(0, dtype=torch.float8_e4m3fn)
    return out, {fp8.METADATA_KEY: json.dumps({"layers": layers})} if style == "metadata" else None


@pytest.mark.parametrize("prefix", ["", PREFIX], ids=["bare", "prefixed"])
@pytest.mark.parametrize("style", ["scaled_fp8", "comfy_quant", "metadata"])
def test_both_layouts_load_to_exactly_value_times_scale(style, prefix, stored, write, small_config):
    wan = stored("dit_small_weights_wan")
    file, metadata = quantised(wan, style, prefix)
    state = load_dit(write(file, metadata=metadata), small_config, dtype=torch.float32).state_dict()
    scale_name = "scale_weight" if style == "scaled_fp8" else "weight_scale"
    for name, tensor in wan.items():
        stored = file[prefix + name]
        if stored.dtype == fp8.FP8:
            scale = file[prefix + name.removesuffix("weight") + scale_name]
            assert torch.equal(state[name], stored.float() * scale), name
            assert (state[name] - tensor.float()).abs().max() <= tensor.float().abs().max() / 2**4  # half of 3 bits
        else:
            assert torch.equal(state[name], tensor.float())


def test_eight_bit_files_become_bfloat16_unless_told_otherwise(stored, write, small_config):
    file, _ = quantised(stored("dit_small_weights_wan"), "comfy_quant")
    assert {p.dtype for p in load_dit(write(file), small_config).parameters()} == {torch.bfloat16}
    plain = {k: t.to(torch.float8_e5m2) for k, t in stored("dit_small_weights_wan").items()}
    state = load_dit(write(plain), small_config).state_dict()
    assert all(torch.equal(state[k], t.bfloat16()) for k, t in plain.items())


def test_scaled_text_encoder_in_transformers_names(stored, write):
    file, _ = quantised(export(stored("t5_weights"), TEXT_TRANSFORMERS), "scaled_fp8")
    state = load_text_encoder(write(file), dtype=torch.float32).state_dict()
    key = "encoder.block.1.layer.0.SelfAttention.q"
    assert torch.equal(state["blocks.1.attn.q.weight"], file[f"{key}.weight"].float() * file[f"{key}.scale_weight"])


def test_scale_per_row_is_split_with_a_fused_tensor(stored, write, small_config):
    sat = stored("dit_small_weights_sat")
    key = PREFIX + "transformer.layers.0.attention.query_key_value"
    scale = torch.rand(288, 1) + 0.5
    file = {**sat, f"{key}.weight": sat[f"{key}.weight"].to(fp8.FP8), f"{key}.weight_scale": scale}
    state = load_dit(write(file), small_config, dtype=torch.float32).state_dict()
    assert torch.equal(state["blocks.0.self_attn.k.weight"], (file[f"{key}.weight"].float() * scale)[96:192])


def test_formats_we_cannot_read_are_refused_not_misread(stored, write, small_config):
    file, _ = quantised(stored("dit_small_weights_wan"), "comfy_quant")
    file["blocks.0.ffn.0.comfy_quant"] = torch.tensor(list(b'{"format": "nvfp4"}'), dtype=torch.uint8)
    with pytest.raises(CheckpointError, match=r"blocks\.0\.ffn\.0\.comfy_quant as nvfp4"):
        load_dit(write(file), small_config)

    packed = {**stored("dit_small_weights_wan"), "blocks.0.ffn.0.weight": torch.zeros(160, 96, dtype=torch.int8)}
    with pytest.raises(CheckpointError, match=r"packs weights into integers \(blocks\.0\.ffn\.0\.weight\)"):
        load_dit(write(packed), small_config)


def test_quantise_keeps_its_input_and_a_weight_of_zeros():
    weight = torch.randn(8, 8)
    kept = weight.clone()
    values, scale = fp8.quantise(weight)
    assert torch.equal(weight, kept) and values.float().abs().max() == 448 and scale.ndim == 0
    values, scale = fp8.quantise(torch.zeros(2, 2))
    assert scale == 1 and not values.float().any()
