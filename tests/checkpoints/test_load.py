"""Every layout and container loads to the same module; anything else is refused with a reason."""

import argparse
import json
import re

import pytest
import torch

from kaleido_core.checkpoints import load
from kaleido_core.checkpoints.layouts import DIT_DIFFUSERS, TEXT_TRANSFORMERS, VAE_DIFFUSERS, export
from kaleido_core.checkpoints.load import load_dit, load_text_encoder, load_tokenizer, load_vae
from kaleido_core.checkpoints.sizes import write_identity
from kaleido_core.errors import CheckpointError, DataError


def assert_same(module, tensors, dtype=torch.bfloat16):
    state = module.state_dict()
    assert state.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert state[key].dtype == dtype and torch.equal(state[key], tensor.to(dtype)), key


@pytest.mark.parametrize("layout", ["wan", "sat", "model.diffusion_model.", "diffusion_model.", "diffusers"])
def test_every_dit_layout_loads_to_the_same_weights(layout, stored, write, small_config):
    wan = stored("dit_small_weights_wan")
    tensors = {
        "wan": lambda: wan,
        "sat": lambda: stored("dit_small_weights_sat"),
        "diffusers": lambda: export(wan, DIT_DIFFUSERS),
    }.get(layout, lambda: {layout + key: tensor for key, tensor in wan.items()})()
    dit = load_dit(write(tensors), small_config)
    assert dit.config == small_config and not dit.training
    assert not any(parameter.requires_grad for parameter in dit.parameters())
    assert_same(dit, wan)


@pytest.mark.parametrize("prefix", ["", "first_stage_model.", "diffusers"])
def test_every_vae_layout_loads_to_the_same_weights(prefix, stored, write):
    wan = stored("vae_weights")
    diffusers = prefix == "diffusers"
    vae = load_vae(write(export(wan, VAE_DIFFUSERS) if diffusers else {prefix + k: t for k, t in wan.items()}))
    assert vae.config.base_width == 8
    assert not any(buffer.is_meta for buffer in vae.buffers())
    assert_same(vae, wan, torch.float32)


@pytest.mark.parametrize("layout", ["wan", "transformers", "comfyui"])
def test_every_text_layout_loads_to_the_same_weights(layout, stored, write):
    wan = stored("t5_weights")
    theirs = wan if layout == "wan" else export(wan, TEXT_TRANSFORMERS)
    extras = {"spiece_model": torch.zeros(8, dtype=torch.uint8)} if layout == "comfyui" else {}
    encoder = load_text_encoder(write({**theirs, **extras}))
    assert (encoder.config.num_layers, encoder.config.num_heads, encoder.config.mlp_width) == (3, 4, 96)
    assert_same(encoder, wan)


def test_official_folder_holds_the_dit_and_the_text_encoder(official_folder, stored, small_config):
    file = official_folder / "1000" / "mp_rank_00_model_states.pt"
    for path in (official_folder, file, file.parent):
        assert_same(load_dit(path, small_config), stored("dit_small_weights_wan"))
    assert_same(load_text_encoder(official_folder), stored("t5_weights"))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old format"])
def test_torch_files_load_with_plain_arguments_beside_the_weights(zipped, stored, tmp_path):
    content = {"state_dict": stored("vae_weights"), "args": argparse.Namespace(lr=1e-5)}
    torch.save(content, tmp_path / "vae.pth", _use_new_zipfile_serialization=zipped)
    assert_same(load_vae(tmp_path / "vae.pth"), stored("vae_weights"), torch.float32)


def test_sharded_folder_and_pipeline_folder(stored, write, small_config):
    wan = stored("dit_small_weights_wan")
    keys = list(wan)
    shards = {"a.safetensors": keys[::2], "b.safetensors": keys[1::2]}
    for name, names in shards.items():
        path = write({key: wan[key] for key in names}, f"pipeline/transformer/{name}")
    index = path.parent / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {k: n for n, names in shards.items() for k in names}}), encoding="utf-8")
    write(stored("vae_weights"), "pipeline/vae/diffusion_pytorch_model.safetensors")
    for place in (index, path.parent, path.parent.parent):
        assert_same(load_dit(place, small_config), wan)
    assert_same(load_vae(path.parent.parent), stored("vae_weights"), torch.float32)
    path.unlink()
    with pytest.raises(CheckpointError, match="2 shards, 1 are not beside it"):
        load_dit(index, small_config)


def test_wan_release_folder_gives_each_model_its_own_file(stored, write, tmp_path):
    path = write(stored("dit_h128_weights_wan"), "release/diffusion_pytorch_model.safetensors")
    torch.save(stored("vae_weights"), path.parent / "Wan2.1_VAE.pth")
    torch.save(stored("t5_weights"), path.parent / "models_t5_umt5-xxl-enc-bf16.pth")
    assert load_dit(path.parent).config.num_heads == 2  # 256 wide: heads of 128
    assert_same(load_vae(path.parent), stored("vae_weights"), torch.float32)
    assert_same(load_text_encoder(path.parent), stored("t5_weights"))


def test_metadata_tells_the_number_of_heads(stored, write, small_config):
    metadata = write_identity("dit", small_config, "bf16", "/home/me/source.pt", is_kaleido=True)
    wan = stored("dit_small_weights_wan")
    assert load_dit(write(wan, metadata=metadata)).config == small_config
    assert json.loads(metadata["config"]) == {"transformer": {"text_dim": 64, "num_heads": 3}}
    assert "/home" not in metadata["kaleido"]
    with pytest.raises(CheckpointError, match="Pass config=DiTConfig"):
        load_dit(write(wan))


def test_dtype_is_the_callers_or_the_files(stored, write, small_config):
    path = write(stored("dit_small_weights_wan"))
    assert_same(load_dit(path, small_config, dtype=torch.float32), stored("dit_small_weights_wan"), torch.float32)
    assert_same(load_vae(write(stored("vae_weights")), dtype=torch.bfloat16), stored("vae_weights"))


def test_unchanged_weights_are_mapped_not_copied(stored, write, small_config):
    path = write(stored("dit_h128_weights_wan"))
    dit = load_dit(path)
    with open(path, "r+b") as file:  # the file's last byte is the last tensor's
        file.seek(-1, 2)
        file.write(b"\x7f")
    assert not all(torch.equal(t, stored("dit_h128_weights_wan")[k]) for k, t in dit.state_dict().items())


def test_a_large_file_that_is_converted_says_what_that_takes(stored, write, small_config, monkeypatch, caplog):
    monkeypatch.setattr(load, "CONVERTED", 0)
    path = write(stored("dit_small_weights_wan"))
    load_dit(path, small_config)
    assert not caplog.messages, "it is mapped"
    load_dit(path, small_config, dtype=torch.float16)
    assert len(caplog.messages) == 1 and "model.safetensors is converted to float16" in caplog.messages[0]


def test_mismatch_lists_at_most_five_keys_of_each_kind_and_the_layout(stored, write, small_config):
    tensors = stored("dit_small_weights_wan")
    broken = {k: t for k, t in tensors.items() if "blocks.1." not in k}
    broken |= {f"img_emb.{i}.weight": torch.zeros(1) for i in range(7)}
    with pytest.raises(CheckpointError) as caught:
        load_dit(write({"model.diffusion_model." + k: t for k, t in broken.items()}), small_config)
    message = str(caught.value)
    assert "Wan, prefix model.diffusion_model." in message
    assert len(re.findall(r"blocks\.1\.", message)) == 5 and "and 22 more" in message
    assert message.count("img_emb.") == 5 and "and 2 more" in message


def test_wrong_shape_wrong_kind_and_strangers_are_refused(stored, write, tmp_path, small_config):
    tensors = stored("dit_small_weights_wan")
    wrong = {**tensors, "blocks.0.ffn.2.bias": torch.zeros(7)}
    with pytest.raises(CheckpointError, match=r"blocks\.0\.ffn\.2\.bias is \[7\], not \[96\]"):
        load_dit(write(wrong), small_config)
    with pytest.raises(CheckpointError, match=r"is a vae model .* we need a dit model"):
        load_dit(write(stored("vae_weights")))
    with pytest.raises(CheckpointError, match="in a layout that we know"):
        load_dit(write({f"lora_{i}": torch.zeros(1) for i in range(9)}))
    with pytest.raises(CheckpointError, match="does not exist"):
        load_dit(tmp_path / "nothing.safetensors")
    with pytest.raises(CheckpointError, match="holds no weights"):
        load_dit(tmp_path.parent)


def test_damaged_files_are_refused(stored, write, tmp_path):
    path = write(stored("vae_weights"))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="download it again"):
        load_vae(path)
    torch.save(stored("vae_weights"), tmp_path / "vae.pth")
    (tmp_path / "vae.pth").write_bytes((tmp_path / "vae.pth").read_bytes()[:-100])
    with pytest.raises(CheckpointError):
        load_vae(tmp_path / "vae.pth")


class Attack:
    """Unpickling this creates a file."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return open, (self.target, "w")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old format"])
def test_malicious_pickle_is_refused_and_runs_nothing(zipped, tmp_path, stored):
    target = tmp_path / "pwned"
    content = {"module": stored("dit_small_weights_sat"), "extra": Attack(target)}
    torch.save(content, tmp_path / "model.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="somebody's code"):
        load_dit(tmp_path / "model.pt")
    assert not target.exists()


def test_official_folder_that_points_outside_itself_is_refused(official_folder):
    (official_folder / "latest").write_text("../elsewhere", encoding="utf-8")
    with pytest.raises(CheckpointError, match="latest"):
        load_dit(official_folder)


def test_tiny_means_the_embedded_files(monkeypatch, stored, write, small_config, tmp_path):
    monkeypatch.setattr(load, "ASSETS", tmp_path)
    with pytest.raises(CheckpointError, match=r"kaleido_tiny_dit\.safetensors is not installed"):
        load_dit("tiny")
    (tmp_path / "diffusion_models").mkdir()
    write(stored("dit_h128_weights_wan"), "diffusion_models/kaleido_tiny_dit.safetensors")
    assert_same(load_dit("tiny"), stored("dit_h128_weights_wan"))
    with pytest.raises(CheckpointError, match="kaleido_tiny_spiece"):
        load_tokenizer("tiny")


def test_tokenizer_comes_from_a_file_a_folder_or_a_text_encoder_file(stored, write, tmp_path):
    spm = pytest.importorskip("sentencepiece")
    (tmp_path / "corpus.txt").write_text("a red fox runs over the snow\n" * 20, encoding="utf-8")
    (tmp_path / "tok").mkdir()
    spm.SentencePieceTrainer.train(
        input=str(tmp_path / "corpus.txt"), model_prefix=str(tmp_path / "tok" / "spiece"), vocab_size=20,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    model = tmp_path / "tok" / "spiece.model"
    inside = write({**stored("t5_weights"), "spiece_model": torch.tensor(list(model.read_bytes()), dtype=torch.uint8)})
    ids = [load_tokenizer(path)(["a red fox"])[0] for path in (model, model.parent, inside)]
    assert torch.equal(ids[0], ids[1]) and torch.equal(ids[0], ids[2]) and ids[0].any()
    with pytest.raises(CheckpointError, match="holds no tokenizer, nor does its folder"):
        load_tokenizer(write(stored("t5_weights")))


def test_a_torch_text_encoder_finds_its_tokenizer_beside_it_and_is_never_read_as_one(tmp_path):
    torch.save({"norm.weight": torch.ones(2)}, tmp_path / "models_t5.pth")
    with pytest.raises(CheckpointError, match=r"spiece\.model"):
        load_tokenizer(tmp_path / "models_t5.pth")
    (tmp_path / "spiece.model").write_bytes(b"junk")
    with pytest.raises(DataError, match="no SentencePiece model"):
        load_tokenizer(tmp_path / "models_t5.pth")
