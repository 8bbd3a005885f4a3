"""A data set becomes latents once, by the core's own steps, whatever happens meanwhile."""

import json
import multiprocessing
import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from kaleido_core import VideoSize
from kaleido_core.references import letterbox
from kaleido_core.video import write_video
from training import cache
from training.cache import DAMAGED, DONE, REFUSED, build_cache, main
from training.config import CheckpointConfig, Config, DataConfig, ModelConfig, OptimizerConfig, RunConfig
from training.data.encoder import Encoders, Look, load_encoders, read_pixels
from training.data.record import Picture, Record, read_records, write_manifest
from training.samples import CachedSamples
from training.train import train

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
    return {path.name: load_file(path) for path in folder.iterdir()}


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


def test_killed_anywhere_it_goes_on_and_no_file_is_ever_half(manifest, encoders, tmp_path):
    records, chance = read_records(manifest), random.Random(4)
    build_cache(records, tmp_path / "whole", encoders, LOOK)
    began = time.monotonic()
    build_cache(records, tmp_path / "timed", encoders, LOOK)
    seconds = time.monotonic() - began
    folder = tmp_path / "killed"
    for _ in range(6):
        child = multiprocessing.get_context("fork").Process(target=build_cache, args=(records, folder, encoders, LOOK))
        child.start()
        time.sleep(chance.uniform(0, seconds))
        os.kill(child.pid or 0, signal.SIGKILL)
        child.join()
        for path in folder.glob("*.safetensors"):
            assert load_file(path)
    build_cache(records, folder, encoders, LOOK)
    assert same(contents(folder), contents(tmp_path / "whole"))


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


def test_from_a_manifest_to_a_trained_lora(manifest, tmp_path):
    assert main([str(manifest), str(tmp_path / "cache"), "--sizes", "64x64x5"]) == DONE
    config = Config(
        RunConfig(str(tmp_path / "run"), steps=2, batch=2, log_every=1),
        ModelConfig("tiny", base="fp32"),
        DataConfig(str(tmp_path / "cache"), caption_dropout=0.0),
        optimizer=OptimizerConfig(lr=1e-3),
        checkpoint=CheckpointConfig(every=2),
    )
    samples = CachedSamples(config.data.cache, config.data, 2, 1, 0)
    sample = samples.load(0, np.random.default_rng(0), np.random.default_rng(0))
    assert sample.context.shape == (64, 128) and len(sample.references) == 2
    assert train(config, samples)
    (weights,) = tmp_path.glob("run/step-*/*.safetensors")
    assert any(value.any() for name, value in load_file(weights).items() if "lora_B" in name)


def test_variants_are_drawn_by_their_weights(tmp_path):
    tensors = {f"reference.0.{variant}": torch.full((16, 1, 2, 2), float(variant)) for variant in range(2)}
    clip = {"latent": torch.ones(16, 1, 2, 2), "context": torch.ones(2, 4)}
    save_file(clip | tensors, tmp_path / "a.safetensors", {"weights": "[[9.0, 1.0]]", "context_rows": "5"})
    save_file({"context": torch.ones(1, 4)}, tmp_path / "empty.safetensors")
    samples = CachedSamples(tmp_path, DataConfig(str(tmp_path), caption_dropout=0.0), 1, 1, 0)
    drawn = [samples.load(0, np.random.default_rng(seed), np.random.default_rng(0)) for seed in range(300)]
    share = np.mean([float(sample.references[0].mean()) for sample in drawn])
    assert 0.05 < share < 0.17
    assert drawn[0].context.shape == (5, 4) and not drawn[0].context[2:].any()
