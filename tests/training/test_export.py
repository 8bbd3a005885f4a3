"""What was trained comes back whole from every format."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from kaleido_core import DiTConfig, KaleidoDiT, load_dit
from kaleido_core.checkpoints.lora import Lora, merge_lora
from kaleido_core.checkpoints.save import save_weights
from kaleido_core.checkpoints.sizes import write_identity
from training.export import LORA_FILE, MODEL_FILE, Origin, main, save_lora
from training.lora import LoRAConfig, add_lora, lora_state

CONFIG = DiTConfig(2, 128, 1, 64, 16)  # heads 128 wide, so that any layout tells its sizes
ORIGIN = Origin("base.safetensors", 40, "ab" * 32, ("sks duck",))


def model(seed: int = 0) -> KaleidoDiT:
    torch.manual_seed(seed)
    return KaleidoDiT(CONFIG)


def save_run(run: Path, state: dict[str, Tensor], origin: Origin = ORIGIN) -> None:
    save_lora(run / f"step-{origin.steps}" / LORA_FILE, state, origin)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    identity = write_identity("dit", CONFIG, "fp32", "base", True)
    save_weights(tmp_path / "base.safetensors", model().state_dict(), identity)
    return tmp_path / "base.safetensors"


@pytest.fixture
def trained() -> KaleidoDiT:
    dit = model()
    for parameter in add_lora(dit, LoRAConfig(4, 8.0, ("all",)), torch.Generator().manual_seed(0)):
        torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    return dit


@pytest.fixture
def run(tmp_path: Path, trained: KaleidoDiT) -> Path:
    """A run with two checkpoints; the later one is that of ``trained``."""
    zeros = {name: torch.zeros_like(value) for name, value in lora_state(trained).items() if ".lora_" in name}
    save_run(tmp_path / "run", lora_state(trained) | zeros, Origin("base.safetensors", 5))
    save_run(tmp_path / "run", lora_state(trained))
    return tmp_path / "run"


def velocity(dit: KaleidoDiT) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    latent, context = torch.randn(1, 16, 1, 4, 4, generator=generator), torch.randn(1, 3, 16, generator=generator)
    with torch.no_grad():
        return dit(latent, torch.tensor([0.5]), context)


def test_a_lora_is_written_as_comfyui_knows_it_and_says_where_it_comes_from(run: Path, tmp_path: Path, trained):
    out = tmp_path / "out.safetensors"
    assert main([str(run), str(out), "--dtype", "fp32"]) == 0
    tensors = load_file(out)
    assert tensors.keys() == {f"diffusion_model.{name}" for name in lora_state(trained)}
    assert all(torch.equal(tensors[f"diffusion_model.{name}"], value) for name, value in lora_state(trained).items())
    with safe_open(out, "pt") as file:
        metadata = file.metadata()
    entry = json.loads(metadata["kaleido"])
    said = {"base_model": "base.safetensors", "steps": 40, "dataset": "ab" * 32, "trigger_words": ["sks duck"]}
    assert entry.items() >= {**said, "rank": 4, "alpha": 8.0, "version": "0.1.0"}.items()
    assert metadata["ss_network_dim"] == "4" and metadata["modelspec.trigger_phrase"] == "sks duck"


@pytest.mark.parametrize("form", ["comfyui", "wan"])
def test_an_exported_lora_merges_to_what_was_trained(run: Path, base: Path, tmp_path: Path, trained, form: str):
    out = tmp_path / "out.safetensors"
    assert main([str(run), str(out), "--dtype", "fp32", "--format", form, "--trigger", "blob"]) == 0
    dit = load_dit(base)
    merge_lora(dit, Lora(out))
    torch.testing.assert_close(velocity(dit), velocity(trained), rtol=0, atol=1e-5)
    assert main([str(run), str(tmp_path / "half.safetensors")]) == 0
    halves = load_file(tmp_path / "half.safetensors")
    assert {value.dtype for name, value in halves.items() if ".lora_" in name} == {torch.bfloat16}


@pytest.mark.parametrize(("dtype", "limit"), [("fp32", 1e-5), ("bf16", 0.05), ("fp8_scaled", 0.3)])
def test_merged_weights_are_the_base_with_the_lora(run, base, tmp_path: Path, trained, dtype: str, limit: float):
    out = tmp_path / "merged.safetensors"
    assert main([str(run), str(out), "--merge", str(base), "--dtype", dtype]) == 0
    merged = velocity(load_dit(out, dtype=torch.float32))
    assert (merged - velocity(trained)).abs().max() < limit < (velocity(model()) - merged).abs().max()
    with safe_open(out, "pt") as file:
        entry = json.loads(file.metadata()["kaleido"])
    assert entry["source"] == f"base.safetensors + {LORA_FILE}" and entry["is_kaleido"] is True


def test_whole_weights_go_to_wans_names_and_to_the_official_container_and_back(base: Path, tmp_path: Path):
    run, wan, official, again = (
        tmp_path / name for name in ("run", "wan.safetensors", "official", "again.safetensors")
    )
    run.mkdir()
    base.rename(run / MODEL_FILE)
    for source, out, form in ((run, wan, "wan"), (wan, official, "official"), (official, again, "wan")):
        assert main([str(source), str(out), "--format", form, "--dtype", "fp32"]) == 0
    names = torch.load(next(official.rglob("*.pt")), weights_only=True)["module"].keys()
    assert (official / "latest").read_text() == "release\n"
    assert all(name.startswith("model.diffusion_model.") for name in names)
    for path in (wan, official, again):
        loaded = load_dit(path).state_dict()
        assert all(torch.equal(value, loaded[name]) for name, value in model().state_dict().items())


def test_a_lora_goes_into_the_official_container_merged(run: Path, base: Path, tmp_path: Path, trained):
    words = ["--merge", str(base), "--dtype", "fp32", "--format", "official"]
    assert main([str(run), str(tmp_path / "official"), *words]) == 0
    torch.testing.assert_close(velocity(load_dit(tmp_path / "official")), velocity(trained), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("words", "said"), [
    (["--format", "official"], "Add --merge"),
    (["--dtype", "fp8_scaled"], "Add --merge"),
    (["--merge", "nowhere.safetensors"], "does not exist"),
])  # fmt: skip
def test_what_cannot_be_written_is_refused(run: Path, tmp_path: Path, capsys, words: list[str], said: str):
    assert main([str(run), str(tmp_path / "out.safetensors"), *words]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out.safetensors").exists()


def test_nothing_is_written_over_nor_merged_twice(run: Path, base: Path, tmp_path: Path, capsys):
    assert main([str(run), str(base)]) == 2
    assert "nothing is written over" in capsys.readouterr().err
    assert main([str(base), str(tmp_path / "out.safetensors"), "--merge", str(base)]) == 2
    assert "only a LoRA is merged" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty"), str(tmp_path / "out.safetensors")]) == 2
    assert "holds no weights" in capsys.readouterr().err
