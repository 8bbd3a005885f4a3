"""Conversion gives the same weights in Wan's names, whole or not at all, in little memory."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from kaleido_core.checkpoints.convert import convert
from kaleido_core.checkpoints.layouts import DIT_SAT, VAE_DIFFUSERS, export
from kaleido_core.checkpoints.load import load_dit, load_vae
from kaleido_core.checkpoints.sizes import write_identity
from kaleido_core.errors import CheckpointError, ConfigError

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def sat_file(tmp_path, deep_model) -> Path:
    torch.save({"module": export(deep_model, DIT_SAT)}, tmp_path / "official.pt")
    return tmp_path / "official.pt"


def metadata_of(path):
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def test_all_real_names_survive_the_round_trip(sat_file, deep_model, tmp_path):
    progress = []
    convert(sat_file, tmp_path / "out.safetensors", on_progress=lambda done, total: progress.append((done, total)))
    written = load_file(tmp_path / "out.safetensors")
    assert len(written) == 1095 and written.keys() == deep_model.keys()
    assert all(torch.equal(written[key], deep_model[key]) for key in deep_model)
    assert progress[0] == (0, 1095) and progress[-1] == (1095, 1095)

    entry = json.loads(metadata_of(tmp_path / "out.safetensors")["kaleido"])
    assert entry["architecture"] == "kaleido-dit" and entry["is_kaleido"] is True and entry["format"] == 1
    assert entry["source"] == "official.pt" and entry["config"]["num_layers"] == 40
    convert(tmp_path / "out.safetensors", tmp_path / "again.safetensors")
    again = load_file(tmp_path / "again.safetensors")
    assert all(torch.equal(again[key], deep_model[key]) for key in deep_model)
    assert json.loads(metadata_of(tmp_path / "again.safetensors")["kaleido"])["is_kaleido"] is True


def test_fp8_scaled_is_comfyuis_layout_and_loads_back(sat_file, deep_model, tmp_path):
    convert(sat_file, tmp_path / "fp8.safetensors", dtype="fp8_scaled")
    written = load_file(tmp_path / "fp8.safetensors")
    quantised = [key for key, tensor in written.items() if tensor.dtype == torch.float8_e4m3fn]
    assert len(quantised) == 40 * 10 and all(written[key].ndim == 2 for key in quantised)
    for key in quantised:
        layer = key.removesuffix(".weight")
        assert json.loads(bytes(written[f"{layer}.comfy_quant"].tolist())) == {"format": "float8_e4m3fn"}
        assert written[f"{layer}.weight_scale"].shape == () and written[f"{layer}.weight_scale"].dtype == torch.float32
    assert written["patch_embedding.weight"].dtype == torch.bfloat16
    state = load_dit(tmp_path / "fp8.safetensors", dtype=torch.float32).state_dict()
    for key, tensor in deep_model.items():
        expected = (
            written[key].float() * written[key.removesuffix("weight") + "weight_scale"] if key in quantised else tensor
        )
        assert torch.equal(state[key], expected.float())
        assert (state[key] - tensor.float()).norm() <= 0.03 * tensor.float().norm()


def test_fp16_is_exact_where_it_fits_and_refused_where_not(stored, write, tmp_path, small_config):
    metadata = write_identity("dit", small_config, "bf16", "x", is_kaleido=None)
    wan = stored("dit_small_weights_wan")
    convert(write(wan, metadata=metadata), tmp_path / "half.safetensors", dtype="fp16")
    assert all(torch.equal(t, wan[k].half()) for k, t in load_file(tmp_path / "half.safetensors").items())
    wan["blocks.2.ffn.0.bias"][3] = 1e6
    with pytest.raises(CheckpointError, match=r"blocks\.2\.ffn\.0\.bias has numbers that fp16 cannot hold"):
        convert(write(wan, metadata=metadata), tmp_path / "over.safetensors", dtype="fp16")
    assert not list(tmp_path.glob("*over*")) + list(tmp_path.glob(".*"))


def test_vae_converts_with_its_own_statistics(stored, write, tmp_path):
    convert(write(export(stored("vae_weights"), VAE_DIFFUSERS)), tmp_path / "vae.safetensors")
    vae = load_vae(tmp_path / "vae.safetensors")
    assert vae.config == load_vae(write(stored("vae_weights"))).config
    with pytest.raises(ConfigError, match="fp8_scaled"):
        convert(tmp_path / "vae.safetensors", tmp_path / "fp8.safetensors", dtype="fp8_scaled")


@pytest.mark.parametrize("kaleido", [None, True, False])
def test_a_wan_file_is_kaleido_only_when_someone_says_so(kaleido, stored, write, tmp_path):
    convert(write(stored("dit_h128_weights_wan")), tmp_path / "out.safetensors", kaleido=kaleido)
    assert json.loads(metadata_of(tmp_path / "out.safetensors")["kaleido"])["is_kaleido"] is kaleido


def test_header_is_read_by_safetensors_and_numbers_are_aligned(sat_file, tmp_path):
    convert(sat_file, tmp_path / "fp8.safetensors", dtype="fp8_scaled")
    raw = (tmp_path / "fp8.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    header.pop("__metadata__")
    spans = sorted(entry["data_offsets"] for entry in header.values())
    sizes = {"BF16": 2, "F32": 4, "F8_E4M3": 1, "U8": 1}
    assert length % 8 == 0 and spans[0][0] == 0 and spans[-1][1] == len(raw) - 8 - length
    assert all(before[1] == after[0] for before, after in zip(spans, spans[1:], strict=False))
    assert all(entry["data_offsets"][0] % sizes[entry["dtype"]] == 0 for entry in header.values())


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failed_conversion_leaves_the_old_file_and_no_rest(error, sat_file, tmp_path):
    target = tmp_path / "out" / "model.safetensors"
    target.parent.mkdir()
    target.write_bytes(b"old")

    def fail(done, total):
        if done == 500:
            raise error

    with pytest.raises(error):
        convert(sat_file, target, on_progress=fail)
    assert [file.name for file in target.parent.iterdir()] == ["model.safetensors"] and target.read_bytes() == b"old"


def test_sources_that_do_not_fit_leave_nothing(stored, write, tmp_path):
    tensors = stored("dit_h128_weights_wan")
    del tensors["blocks.0.norm3.bias"]
    with pytest.raises(CheckpointError, match=r"Missing: blocks\.0\.norm3\.bias"):
        convert(write(tensors), tmp_path / "out.safetensors")
    with pytest.raises(ConfigError, match="ending in"):
        convert(write(tensors), tmp_path / "out.pt")
    with pytest.raises(ConfigError, match="bf16, fp16, fp32, fp8_scaled"):
        convert(write(tensors), tmp_path / "out.safetensors", dtype="int3")  # type: ignore[arg-type]
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


STOPPED = """
import sys, time
from kaleido_core.checkpoints.convert import convert
def progress(done, total):
    if done == 300:
        print("half", flush=True)
        time.sleep(30)
convert(sys.argv[1], sys.argv[2], on_progress=progress)
"""


def test_terminated_process_leaves_nothing(sat_file, tmp_path):
    out = tmp_path / "out" / "model.safetensors"
    command = [sys.executable, "-c", STOPPED, str(sat_file), str(out)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None and process.stdout.readline() == b"half\n"
        assert len(os.listdir(out.parent)) == 1  # the hidden partial file
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) != 0
    assert os.listdir(out.parent) == []


MEASURED = """
import sys, torch
from kaleido_core.checkpoints import convert as c, readers as c_readers
small, large, bf16, fp8 = sys.argv[1:]
torch.set_num_threads(1)  # threads that wait for one another cost more than they bring here
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096
def growth(source, target, dtype):
    base, peaks = resident(), []
    c.convert(source, target, dtype=dtype, on_progress=lambda done, total: peaks.append(resident()))
    return max(peaks) - base
c.convert(small, fp8, dtype="fp8_scaled")  # warm: libraries, allocator
c_readers.WINDOW = 16 * 2**20
print(growth(large, bf16, "bf16"), growth(bf16, fp8, "fp8_scaled"))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's own count")
def test_memory_does_not_grow_with_the_file(sat_file, tmp_path, deep_model):
    """Resident memory, mapped file pages included, grows by far less than the 135 MiB of weights."""

    def widen(shape):
        return [3 * size if size in (128, 256, 768) else size for size in shape]

    widened = {key: torch.ones(widen(tensor.shape), dtype=torch.bfloat16) for key, tensor in deep_model.items()}
    widened["time_embedding.0.weight"] = torch.ones(384, 256, dtype=torch.bfloat16)
    large, bf16, fp8 = (tmp_path / name for name in ("large.pt", "bf16.safetensors", "fp8.safetensors"))
    torch.save({"module": export(widened, DIT_SAT)}, large)
    assert large.stat().st_size > 130 * 2**20
    command = [sys.executable, "-c", MEASURED, sat_file, large, bf16, fp8]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    from_torch, from_safetensors = map(int, output.split())
    assert from_torch < 48 * 2**20 and from_safetensors < 48 * 2**20, output
