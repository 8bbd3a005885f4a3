"""Each layout's names are translated one to one."""

import pytest
import torch

from kaleido_core.checkpoints.layouts import (
    DIT_DIFFUSERS,
    DIT_SAT,
    DIT_WAN,
    LAYOUTS,
    TEXT_TRANSFORMERS,
    VAE_DIFFUSERS,
    Detected,
    detect,
    export,
    translate,
)

# Names as the other programs write them, so that a wrong table cannot agree with itself.
KNOWN_NAMES = [
    (DIT_DIFFUSERS, "condition_embedder.time_embedder.linear_1.weight", "time_embedding.0.weight"),
    (DIT_DIFFUSERS, "condition_embedder.text_embedder.linear_2.bias", "text_embedding.2.bias"),
    (DIT_DIFFUSERS, "condition_embedder.time_proj.weight", "time_projection.1.weight"),
    (DIT_DIFFUSERS, "scale_shift_table", "head.modulation"),
    (DIT_DIFFUSERS, "proj_out.bias", "head.head.bias"),
    (DIT_DIFFUSERS, "blocks.17.scale_shift_table", "blocks.17.modulation"),
    (DIT_DIFFUSERS, "blocks.17.attn1.to_out.0.weight", "blocks.17.self_attn.o.weight"),
    (DIT_DIFFUSERS, "blocks.17.attn2.norm_k.weight", "blocks.17.cross_attn.norm_k.weight"),
    (DIT_DIFFUSERS, "blocks.17.norm2.bias", "blocks.17.norm3.bias"),
    (DIT_DIFFUSERS, "blocks.17.ffn.net.0.proj.weight", "blocks.17.ffn.0.weight"),
    (DIT_DIFFUSERS, "blocks.17.ffn.net.2.weight", "blocks.17.ffn.2.weight"),
    (VAE_DIFFUSERS, "quant_conv.weight", "conv1.weight"),
    (VAE_DIFFUSERS, "post_quant_conv.bias", "conv2.bias"),
    (VAE_DIFFUSERS, "encoder.conv_in.weight", "encoder.conv1.weight"),
    (VAE_DIFFUSERS, "encoder.down_blocks.3.conv_shortcut.weight", "encoder.downsamples.3.shortcut.weight"),
    (VAE_DIFFUSERS, "encoder.down_blocks.10.norm2.gamma", "encoder.downsamples.10.residual.3.gamma"),
    (VAE_DIFFUSERS, "encoder.down_blocks.5.time_conv.weight", "encoder.downsamples.5.time_conv.weight"),
    (VAE_DIFFUSERS, "encoder.mid_block.attentions.0.to_qkv.weight", "encoder.middle.1.to_qkv.weight"),
    (VAE_DIFFUSERS, "decoder.mid_block.resnets.1.conv2.bias", "decoder.middle.2.residual.6.bias"),
    (VAE_DIFFUSERS, "decoder.up_blocks.1.resnets.0.conv_shortcut.bias", "decoder.upsamples.4.shortcut.bias"),
    (VAE_DIFFUSERS, "decoder.up_blocks.2.upsamplers.0.resample.1.weight", "decoder.upsamples.11.resample.1.weight"),
    (VAE_DIFFUSERS, "decoder.up_blocks.3.resnets.2.norm1.gamma", "decoder.upsamples.14.residual.0.gamma"),
    (VAE_DIFFUSERS, "decoder.norm_out.gamma", "decoder.head.0.gamma"),
    (TEXT_TRANSFORMERS, "shared.weight", "token_embedding.weight"),
    (TEXT_TRANSFORMERS, "encoder.final_layer_norm.weight", "norm.weight"),
    (TEXT_TRANSFORMERS, "encoder.block.7.layer.0.SelfAttention.q.weight", "blocks.7.attn.q.weight"),
    (TEXT_TRANSFORMERS, "encoder.block.7.layer.0.layer_norm.weight", "blocks.7.norm1.weight"),
    (
        TEXT_TRANSFORMERS,
        "encoder.block.7.layer.0.SelfAttention.relative_attention_bias.weight",
        "blocks.7.pos_embedding.embedding.weight",
    ),
    (TEXT_TRANSFORMERS, "encoder.block.7.layer.1.DenseReluDense.wi_0.weight", "blocks.7.ffn.gate.0.weight"),
    (TEXT_TRANSFORMERS, "encoder.block.7.layer.1.DenseReluDense.wi_1.weight", "blocks.7.ffn.fc1.weight"),
    (TEXT_TRANSFORMERS, "encoder.block.7.layer.1.DenseReluDense.wo.weight", "blocks.7.ffn.fc2.weight"),
    (TEXT_TRANSFORMERS, "encoder.block.7.layer.1.layer_norm.weight", "blocks.7.norm2.weight"),
]  # fmt: skip


def found(keys, kind=None) -> Detected:
    detected = detect(keys, kind)
    assert detected is not None
    return detected


@pytest.mark.parametrize(("layout", "theirs", "ours"), KNOWN_NAMES)
def test_known_names_mean_what_their_programs_mean(layout, theirs, ours):
    keys = [*layout.markers, theirs]
    pieces, unknown = translate(keys, found(keys, layout.kind))
    assert pieces[ours].key == theirs and not unknown


def test_every_real_name_of_the_14b_dit_agrees_with_the_key_table(real_keys):
    names = {}
    for row in real_keys["dit"]["rows"]:
        for block in range(40) if "{i}" in row["wan"] else (0,):
            part = int(row["sat_rows"].split()[1].split("*")[0]) if row["sat_rows"] else 0
            names[row["wan"].format(i=block)] = (row["sat"].format(i=block), part)
    keys = {key for key, _ in names.values()}
    pieces, unknown = translate(keys, found(keys))
    assert (len(keys), len(names), unknown) == (855, 1095, [])
    assert {name: (piece.key, piece.part) for name, piece in pieces.items()} == names


@pytest.mark.parametrize(("kind", "table"), [("vae", "shapes"), ("text", "shapes_block0_and_globals")])
def test_real_names_of_the_vae_and_the_text_encoder_are_ours(real_keys, kind, table):
    keys = [key.format(i=0) for key in real_keys[{"vae": "vae", "text": "t5"}[kind]][table]]
    pieces, unknown = translate(keys, found(keys))
    assert found(keys).layout.kind == kind and list(pieces) == keys and not unknown


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: f"{layout.kind}-{layout.name}")
def test_export_and_translate_are_inverse(layout, stored):
    tensors = stored({"dit": "dit_small_weights_wan", "vae": "vae_weights", "text": "t5_weights"}[layout.kind])
    exported = export(tensors, layout)
    detected = found(exported)
    pieces, unknown = translate(exported, detected)
    assert detected.layout == layout and not unknown and pieces.keys() == tensors.keys()
    for name, piece in pieces.items():
        assert torch.equal(exported[piece.key].chunk(piece.parts)[piece.part], tensors[name])


def test_export_to_sat_is_the_official_layout(stored):
    exported, official = export(stored("dit_small_weights_wan"), DIT_SAT), stored("dit_small_weights_sat")
    assert exported.keys() == official.keys()
    assert all(torch.equal(exported[key], official[key]) for key in official)


def test_keys_of_no_rule_are_reported_and_other_models_in_the_file_are_not(stored):
    keys = ["model.diffusion_model." + key for key in stored("dit_small_weights_wan")]
    pieces, unknown = translate([*keys, "first_stage_model.conv1.weight", "stray", keys[0] + "x"], found(keys))
    assert len(pieces) == len(keys) and sorted(unknown) == sorted(["stray", keys[0] + "x"])
    assert found(keys).layout == DIT_WAN and detect(["lora_A.weight"]) is None
