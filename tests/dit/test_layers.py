import pytest
import torch

from kaleido_core.dit.layers import LayerNorm, RMSNorm, modulated_norm
from kaleido_core.dit.model import timestep_embedding
from kaleido_core.text.encoder import T5Norm
from kaleido_core.vae.layers import ChannelNorm


def with_weights(layer, **weights):
    layer.load_state_dict(weights)
    return layer.requires_grad_(False)


@pytest.fixture
def ops(golden):
    return golden.tensors("ops")


def test_norms_are_the_official_ones(ops):
    x, weight, bias = ops["norm.x"], ops["norm.weight"], ops["norm.bias"]
    rows = {
        "rmsnorm": with_weights(RMSNorm(48, 1e-6), weight=weight)(x),
        "layernorm_plain": modulated_norm(x, torch.zeros(48), torch.zeros(48), 1e-6),
        "layernorm_affine": with_weights(LayerNorm(48, eps=1e-6), weight=weight, bias=bias)(x),
        "t5norm": with_weights(T5Norm(48), weight=weight)(x),
        "vae_rmsnorm": with_weights(ChannelNorm(48, 0), gamma=weight)(x),
    }
    for name, value in rows.items():
        torch.testing.assert_close(value, ops[f"{name}.out"], rtol=2e-6, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")


def test_bfloat16_rms_norm_is_bit_equal_to_the_official_one(ops):
    norm = with_weights(RMSNorm(48, 1e-6), weight=ops["norm.weight"]).bfloat16()
    assert torch.equal(norm(ops["rmsnorm.x_bf16"]), ops["rmsnorm.out_bf16"])


@pytest.mark.parametrize("width", [64, 256])
def test_timestep_embedding_is_the_official_one(ops, width):
    embedding = timestep_embedding(ops["timestep.t"], width)
    torch.testing.assert_close(embedding, ops[f"timestep.emb_{width}"], rtol=0, atol=1e-6)
    assert torch.equal(embedding.bfloat16(), ops[f"timestep.emb_{width}_bf16"])


def test_both_gelus_are_the_tanh_formula(ops):
    value = torch.nn.functional.gelu(ops["gelu.x"], approximate="tanh")
    for name in ("gelu.dit", "gelu.t5"):
        torch.testing.assert_close(value, ops[name], rtol=2e-6, atol=1e-6)
