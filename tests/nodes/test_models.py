"""The loaders: what they say of a file, and what they give."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from kaleido_core.checkpoints.sizes import write_identity
from kaleido_core.config import KALEIDO_14B

from .conftest import Pack


def model_file(folder: Path, name: str, is_kaleido: bool | None = None, says: bool = True) -> Path:
    metadata = write_identity("dit", KALEIDO_14B, "bf16", "x", is_kaleido) if says else {"format": "pt"}
    save_file({"patch_embedding.bias": torch.zeros(2)}, folder / name, metadata)
    return folder / name


@pytest.mark.parametrize(("name", "is_kaleido", "says", "words"), [
    ("anything.safetensors", True, True, None),
    ("Wan2_1-kaleido_bf16.safetensors", None, False, None),
    ("wan2.1_t2v_14B_bf16.safetensors", None, False, "does not say"),
    ("converted.safetensors", None, True, "does not say"),
    ("Kaleido_bf16.SAFETENSORS", None, False, None),
    ("kaleido_not.safetensors", False, True, "says that it is not"),
])  # fmt: skip
def test_a_file_that_may_not_be_kaleido_is_doubted_in_words(pack: Pack, tmp_path, name, is_kaleido, says, words):
    doubt = pack.module("nodes.models").doubt(model_file(tmp_path, name, is_kaleido, says))
    assert doubt is None if words is None else words in doubt and name in doubt


def test_an_official_file_tells_how_to_convert_it(pack: Pack, tmp_path: Path):
    (tmp_path / "mp_rank_00_model_states.pt").write_bytes(b"never opened")
    with pytest.raises(Exception, match=r"python -m kaleido_core convert"):
        pack.module("nodes.models").doubt(tmp_path / "mp_rank_00_model_states.pt")


def test_the_demo_files_are_in_the_stock_lists(pack: Pack):
    import folder_paths  # pyright: ignore[reportMissingImports]

    assert "kaleido_tiny_vae.safetensors" in folder_paths.get_filename_list("vae")
    assert pack.adapter.model_file("kaleido_tiny_vae.safetensors", "vae").is_file()


def test_load_model_gives_a_patched_model_and_no_doubt_for_the_demo_file(pack: Pack, monkeypatch):
    if "kaleido_tiny_dit.safetensors" not in pack.adapter.model_files():
        pytest.skip("this release does not read the demo file")
    said = []
    monkeypatch.setattr(pack.adapter, "show_text", lambda node, text: said.append(text))
    (model,) = pack.run("KaleidoLoadModel", model_name="kaleido_tiny_dit.safetensors", weight_dtype="default").args
    rope = model.get_model_object("diffusion_model.rope_encode")
    assert type(rope).__name__ == "ReferenceRope" and not said


@pytest.mark.parametrize("picture", ["duck", "melon", "robot face"])
def test_demo_references_are_pictures(pack: Pack, picture: str):
    (image,) = pack.run("KaleidoDemoReferences", picture=picture).args
    assert image.shape == (1, 256, 256, 3) and 0 <= image.min() < 0.9 and image.max() == 1


def pflop(plan: str) -> float:
    return float(plan.split("arithmetic")[1].split("PFLOP")[0].replace(",", ""))


def test_plan_reads_a_models_sizes(pack: Pack, demo):
    inputs = {"width": 128, "height": 128, "length": 17, "references": 2, "steps": 20, "guidance": True}
    result = pack.run("KaleidoPlan", weights="as the model", vram=0.0, ram=0.0, model=demo[0], **inputs)
    assert "on the card)" in result.args[0] and "0.0 GiB" in result.args[0], "19 MB of weights"
    (other,) = pack.run("KaleidoPlan", weights="fp8", vram=12.0, ram=32.0, **inputs).args
    (guided,) = pack.run("KaleidoPlan", weights="fp8", vram=12.0, ram=32.0, reference_cfg=3.0, **inputs).args
    assert pflop(other) < pflop(guided) < 1.5 * pflop(other), "a third forward, of fewer tokens"
    assert "13.3 GiB" in other and result.ui.as_dict()["text"] == (result.args[0],)


def test_a_prompt_with_doubts_says_them_on_the_node(pack: Pack, monkeypatch):
    said = []
    monkeypatch.setattr(pack.adapter, "show_text", lambda node, text: said.append((node, text)))
    (text,) = pack.run("KaleidoPrompt", text="@image1 runs.", count=2, template="names", name1="a cat").args
    assert text == "A cat runs." and said[0][0] == "1" and "Reference 2" in said[0][1]
