"""`info` says what a file is, and does not pretend to know what it cannot."""

import torch

from kaleido_core.checkpoints.convert import convert
from kaleido_core.checkpoints.info import describe, info
from kaleido_core.checkpoints.layouts import DIT_SAT, export


def test_official_checkpoint_is_known_to_be_kaleido(deep_model, tmp_path):
    torch.save({"module": export(deep_model, DIT_SAT)}, tmp_path / "official.pt")
    found = info(tmp_path / "official.pt")
    assert (found.kind, found.is_kaleido, found.tensors) == ("dit", True, 1095)
    assert found.parameters == sum(tensor.numel() for tensor in deep_model.values())
    assert found.stored_bytes == 2 * found.parameters and found.dtypes == ("bfloat16",)
    text = describe(tmp_path / "official.pt")
    assert "num_layers 40, width 128, num_heads 1" in text and "official SAT, prefix model.diffusion_model." in text
    assert "yes, by its layout" in text


def test_converted_file_carries_what_it_is(deep_model, tmp_path):
    torch.save({"module": export(deep_model, DIT_SAT)}, tmp_path / "official.pt")
    convert(tmp_path / "official.pt", tmp_path / "out.safetensors", dtype="fp8_scaled")
    found = info(tmp_path / "out.safetensors")
    assert found.is_kaleido is True and found.dtypes == ("float8_e4m3fn", "bfloat16")
    assert "yes, the file's metadata says so" in describe(tmp_path / "out.safetensors")


def test_plain_wan_file_cannot_be_told_apart(stored, write, tmp_path):
    path = write(stored("dit_h128_weights_wan"))
    assert info(path).is_kaleido is None
    assert "unknown" in describe(path) and "same names and shapes" in describe(path)
    for kaleido, word in ((True, "yes"), (False, "plain Wan")):
        convert(path, tmp_path / "said.safetensors", kaleido=kaleido)
        assert info(tmp_path / "said.safetensors").is_kaleido is kaleido
        assert word in describe(tmp_path / "said.safetensors")


def test_vae_and_text_encoder_are_described(stored, write):
    vae, text = write(stored("vae_weights"), "vae.safetensors"), write(stored("t5_weights"), "text.safetensors")
    assert info(vae).kind == "vae" and "base_width 8" in describe(vae) and "mean" not in describe(vae)
    assert info(text).kind == "text" and "vocab_size 200" in describe(text)
    assert info(text).is_kaleido is None and "Wan's VAE and text encoder unchanged" in describe(text)


def test_info_reads_headers_only(stored, write, monkeypatch):
    path = write(stored("dit_h128_weights_wan"))
    monkeypatch.setattr("kaleido_core.checkpoints.source.WeightSource.read", None)
    assert info(path).kind == "dit"
