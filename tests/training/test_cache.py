"""A data set becomes latents once, by the core's own steps, whatever happens meanwhile."""

import errno
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from kaleido_core import VideoSize
from kaleido_core.errors import ConfigError
from kaleido_core.references import letterbox
from kaleido_core.video import write_video
from training import cache, export, train
from training.cache import DAMAGED, DONE, REFUSED, STOPPED, build_cache, main
from training.data.encoder import Encoders, Look, load_encoders, read_pixels
from training.data.record import Picture, Record, read_records, write_manifest

ROOT = Path(__file__).parents[2]
SIZES = (VideoSize(9, 64, 64), VideoSize(5, 32, 64))
LOOK = Look(SIZES)
CPU = torch.device("cpu")


def write_data(folder: Path, count: int = 4) -> Path:
    """Noise that moves, with pictures and masks: a manifest of ``count`` records."""
    random_ = np.random.default_rng(3)
    records = []
    for number in range(count):
        frames = random_.integers(0, 255, (1, 64, 64 + 64 * (number % 2), 3), np.uint8)
        write_video(np.concatenate([np.roll(frames, step, 1) for step in range(9)]), folder / f"{number}.mp4")
        picture = Image.fromarray(random_.integers(0, 255, (40, 30, 3), np.uint8))
        picture.save(folder / f"{number}.png")
        mask = np.zeros((40, 30), np.uint8)
        mask[5:20, 5:20] = 255
        Image.fromarray(mask).save(folder / f"{number}_mask.png")
        references = (
            Picture(f"{number}.png", "cat", mask=f"{number}_mask.png", weight=3.0),
            Picture(f"{(number + 1) % count}.png", "cat"),
            Picture(f"{number}.png", "park", role="background"),
        )
        records.append(Record(f"clip-{number}", f"{number}.mp4", f"Clip {number} moves.", references=references))
    write_manifest(folder / "manifest.jsonl", records)
    return folder / "manifest.jsonl"


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def encoders() -> Encoders:
    return load_encoders("tiny", "", "", "", SIZES[0], CPU)


def contents(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {path.name: load_file(path) for path in folder.glob("*.safetensors")}


def same(one: dict[str, dict[str, torch.Tensor]], other: dict[str, dict[str, torch.Tensor]]) -> bool:
    shapes = [{name: set(file) for name, file in files.items()} for files in (one, other)]
    return shapes[0] == shapes[1] and all(
        torch.equal(tensor, other[name][key]) for name, file in one.items() for key, tensor in file.items()
    )


def test_a_record_is_encoded_as_generate_would(manifest, encoders):
    record = read_records(manifest)[1]
    pixels = read_pixels(record, LOOK)
    tensors = encoders.encode(pixels)
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items() if name != "context"} == {
        "latent": (16, 2, 4, 8), "reference.0.0": (16, 1, 4, 8), "reference.0.1": (16, 1, 4, 8),
        "reference.1.0": (16, 1, 4, 8),
    }  # fmt: skip
    assert pixels.weights == ((3.0, 1.0), (1.0,))
    with torch.no_grad():
        plain = encoders.vae.encode(letterbox(Image.open(manifest.parent / "2.png"), 32, 64))[0]
        clip = encoders.vae.encode(pixels.clip.movedim(1, 0)[None].float() / 127.5 - 1)[0]
        ids, mask = encoders.tokenizer([record.caption])
        context = encoders.text_encoder(ids, mask)[0]
    assert torch.allclose(tensors["reference.0.1"].float(), plain, atol=4e-3)
    assert torch.allclose(tensors["latent"].float(), clip, atol=4e-3)
    rows = len(tensors["context"])
    assert torch.allclose(tensors["context"].float(), context[:rows], rtol=1e-2) and not context[rows:].any()


def test_what_lies_outside_of_a_mask_becomes_white(manifest):
    masked, whole = read_pixels(read_records(manifest)[0], LOOK).references[0]
    assert np.asarray(masked)[-8:].min() == 255 > np.asarray(whole)[-8:, 20:40].min()


def test_copies_are_other_pictures_of_the_same_and_the_same_each_time(manifest):
    record = read_records(manifest)[0]
    first, again = (read_pixels(record, replace(LOOK, copies=2)).references for _ in range(2))
    assert [len(pictures) for pictures in first] == [6, 3]
    views = [np.asarray(picture) for picture in first[0]]
    assert all((views[0] != other).any() for other in views[1:3])
    assert all((np.asarray(b) == a).all() for a, b in zip(views, again[0], strict=True))


def test_what_is_done_is_skipped_and_what_changed_is_done_again(manifest, encoders, tmp_path, monkeypatch):
    records = read_records(manifest)
    assert build_cache(records, tmp_path, encoders, LOOK) == []
    before = contents(tmp_path)
    assert set(before) == {"empty.safetensors", *(f"clip-{number}.safetensors" for number in range(4))}
    done: list[str] = []
    encode = Encoders.encode
    monkeypatch.setattr(Encoders, "encode", lambda self, pixels: done.append(pixels.record.id) or encode(self, pixels))
    build_cache(records, tmp_path, encoders, LOOK)
    assert done == [] and same(contents(tmp_path), before)
    (tmp_path / "clip-2.safetensors").write_bytes((tmp_path / "clip-2.safetensors").read_bytes()[:100])
    build_cache([replace(records[0], caption="Another one."), *records[1:]], tmp_path, encoders, LOOK)
    assert done == ["clip-0", "clip-2"]
    done.clear()
    build_cache(records, tmp_path, encoders, replace(LOOK, rule="official"))
    assert len(done) == 4


def test_a_record_that_changed_and_cannot_be_encoded_leaves_nothing(manifest, encoders, tmp_path):
    records = read_records(manifest)[:2]
    build_cache(records, tmp_path, encoders, LOOK)
    changed = replace(records[0], video=str(tmp_path / "gone.mp4"))
    ((name, problem),) = build_cache([changed, records[1]], tmp_path, encoders, LOOK)
    assert name == "clip-0" and "gone.mp4" in problem
    assert set(contents(tmp_path)) == {"empty.safetensors", "clip-1.safetensors"}


def start(manifest: Path, folder: Path) -> subprocess.Popen[str]:
    """The command, as a user gives it; it has loaded its models and begins to encode."""
    words = [sys.executable, "-m", "training.cache", str(manifest), str(folder), "--sizes", "64x64x9,64x32x5"]
    child = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert child.stderr and any("records to encode" in line for line in child.stderr)
    return child


def test_killed_anywhere_it_goes_on_and_no_file_is_ever_half(tmp_path):
    manifest, folder, chance = write_data(tmp_path, count=10), tmp_path / "killed", random.Random(4)
    whole = start(manifest, tmp_path / "whole")
    began = time.monotonic()
    assert whole.wait() == DONE
    each = (time.monotonic() - began) / 10
    expected, counts = contents(tmp_path / "whole"), []
    for number in range(3):
        child = start(manifest, folder)
        for _ in range(number % 2 + 1):  # so that all of them together get somewhere, but not to the end
            assert child.stderr and child.stderr.readline()
        time.sleep(chance.uniform(0, each))
        child.kill()
        assert child.wait() == -signal.SIGKILL
        found = contents(folder)
        assert all(same({name: file}, {name: expected[name]}) for name, file in found.items())
        counts.append(len(found) - 1)
    assert 0 < counts[0] < 10 and counts == sorted(counts)
    last = start(manifest, folder)
    assert last.wait() == DONE
    assert same(contents(folder), expected) and not list(folder.glob("clip-*.part"))


def test_what_stops_it_within_a_file_leaves_no_half_of_it(manifest, tmp_path, monkeypatch):
    written: list[str] = []
    whole = cache.save_file

    def stopped(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
        if len(written) == 2:
            Path(path).write_bytes(b"half of a file")
            raise KeyboardInterrupt
        written.append(path.name)
        whole(tensors, path, metadata)

    monkeypatch.setattr(cache, "save_file", stopped)
    command = [str(manifest), str(tmp_path), "--sizes", "64x64x5"]
    assert main(command) == STOPPED
    assert set(contents(tmp_path)) == {"empty.safetensors", "clip-0.safetensors"}
    monkeypatch.undo()
    assert main(command) == DONE
    assert len(contents(tmp_path)) == 5 and not list(tmp_path.glob("*.part"))


def test_several_ranks_share_the_records(manifest, tmp_path, monkeypatch):
    assert main([str(manifest), str(tmp_path / "one"), "--sizes", "64x64x5"]) == DONE
    monkeypatch.setenv("WORLD_SIZE", "3")
    sizes = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        assert main([str(manifest), str(tmp_path / "many"), "--sizes", "64x64x5"]) == DONE
        sizes.append(len(contents(tmp_path / "many")))
    assert sizes == [3, 4, 5] and same(contents(tmp_path / "one"), contents(tmp_path / "many"))


def test_neither_another_place_nor_a_score_makes_it_encode_again(manifest, encoders, tmp_path, monkeypatch):
    shutil.copytree(manifest.parent, tmp_path / "data")
    build_cache(read_records(manifest), tmp_path / "cache", encoders, LOOK)
    moved = [replace(record, metrics={"sharpness": 3.0}) for record in read_records(tmp_path / "data/manifest.jsonl")]
    monkeypatch.setattr(Encoders, "encode", None)  # calling it would fail
    assert build_cache(moved, tmp_path / "cache", encoders, LOOK) == []


def test_files_of_no_record_are_told(manifest, tmp_path, caplog):
    save_file({"latent": torch.ones(1)}, tmp_path / "left-over.safetensors")
    assert main([str(manifest), str(tmp_path), "--sizes", "64x64x5"]) == DONE
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warning.startswith("1 files") and "left-over.safetensors" in warning


def test_a_disk_that_takes_nothing_stops_it_in_one_line(manifest, tmp_path, monkeypatch, capsys):
    def full(_: object, path: Path, __: object) -> None:
        Path(path).write_bytes(b"half of a file")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache, "save_file", full)
    assert main([str(manifest), str(tmp_path), "--sizes", "64x64x5"]) == REFUSED
    assert "No space left on device" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_half_a_model_is_refused():
    for places in (("tiny", "wan_2.1_vae.safetensors", "", ""), ("tiny", "", "umt5_xxl.safetensors", "")):
        with pytest.raises(ConfigError, match="Name the other"):
            load_encoders(*places, SIZES[0], CPU)


def test_damaged_records_are_named_and_left_out(manifest, tmp_path, capsys):
    records = list(read_records(manifest))
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    records += [
        replace(records[0], id="no-video", video=str(tmp_path / "bad.mp4")),
        replace(records[0], id="no-picture", references=(Picture(str(tmp_path / "bad.png"), "cat"),)),
    ]
    write_manifest(tmp_path / "manifest.jsonl", records)
    command = [str(tmp_path / "manifest.jsonl"), str(tmp_path / "cache"), "--sizes", "64x64x5"]
    assert main(command) == DAMAGED
    problems = [json.loads(line) for line in (tmp_path / "cache" / cache.PROBLEMS).read_text().splitlines()]
    assert [problem["id"] for problem in problems] == ["no-video", "no-picture"]
    assert "bad.mp4" in problems[0]["problem"] and "bad.png" in problems[1]["problem"]
    assert main([str(tmp_path / "none.jsonl"), str(tmp_path / "cache")]) == REFUSED
    assert "none.jsonl" in capsys.readouterr().err


def test_the_official_folders_by_the_official_rule(manifest, tmp_path):
    root = tmp_path / "official"
    for number in range(2):
        for path, name in (
            (f"videos/{number}.mp4", f"{number}.mp4"),
            (f"references/{number}/ref1.png", f"{number}.png"),
        ):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(manifest.parent / name, root / path)
    assert main([str(root), str(tmp_path / "cache"), "--sizes", "64x64x9", "--rule", "official"]) == DONE
    files = contents(tmp_path / "cache")
    assert set(files) == {"empty.safetensors", "0.safetensors", "1.safetensors"}
    assert set(files["1.safetensors"]) == {"latent", "context", "reference.0.0"}
    assert files["1.safetensors"]["latent"].shape == (16, 3, 8, 8)
    assert torch.equal(files["0.safetensors"]["context"], files["empty.safetensors"]["context"])


def test_three_commands_from_a_manifest_to_a_lora(tmp_path):
    manifest, folder = write_data(tmp_path, count=3), tmp_path / "run"
    assert main([str(manifest), str(tmp_path / "cache"), "--sizes", "64x64x5"]) == DONE
    changes = (f"run.folder={folder}", f"data.cache={tmp_path / 'cache'}", "run.steps=4", "checkpoint.every=4")
    words = [word for change in changes for word in ("--set", change)]
    assert train.main([str(ROOT / "training/configs/tiny_cpu.toml"), *words]) == train.DONE
    losses = [json.loads(line).get("loss") for line in (folder / "log.jsonl").read_text().splitlines()]
    assert all(np.isfinite(loss) for loss in losses if loss is not None)
    assert export.main([str(folder), str(tmp_path / "lora.safetensors")]) == 0
    written = load_file(tmp_path / "lora.safetensors")
    assert any(
        name.startswith("diffusion_model.") and "lora_B" in name and value.any() for name, value in written.items()
    )
