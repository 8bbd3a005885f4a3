"""``generate --replay``: a clip, made again from what it says of itself."""

import json
import os
from dataclasses import fields
from pathlib import Path

import pytest
from PIL import Image

from kaleido_core.cli.jobs import SETTINGS, WEIGHTS
from kaleido_core.request import Request
from kaleido_core.video import read_video

from .cli_stage import Stage, generate, refused


@pytest.mark.parametrize("source", ["fox.mp4", "fox.json"])
def test_a_replay_makes_the_same_latent_of_the_same_request(source: str, stage: Stage, capsys):
    words = ("--steps", "3", "--seed", "5", "--size", "64x32", "--negative", "blur; a=b")
    generate("--prompt", "a fox\n#1", "--reference", "a.png", *words, "--out", "fox.mp4")
    assert generate("--replay", source, "--out", "again.mp4") == 0
    assert stage.requests[0] == stage.requests[1]
    assert "identical latent" in capsys.readouterr().out
    assert Path("fox.json").read_bytes() == Path("again.json").read_bytes()


def test_a_record_from_before_guidance_by_the_references_has_none(stage: Stage):
    generate("--prompt", "a fox", "--reference", "a.png", "--reference-cfg", "2", "--out", "fox.mp4")
    record = json.loads(Path("fox.json").read_text(encoding="utf-8"))
    assert record["request"].pop("reference_cfg") == 2.0
    Path("old.json").write_text(json.dumps(record), encoding="utf-8")
    generate("--replay", "old.json", "--out", "again.mp4")
    assert [request.reference_cfg for request in stage.requests] == [2.0, 1.0]


def test_a_replay_that_differs_says_so_and_returns_1(stage: Stage, capsys):
    generate("--prompt", "a fox", "--out", "fox.mp4")
    record = json.loads(Path("fox.json").read_text(encoding="utf-8"))
    Path("fox.json").write_text(json.dumps({**record, "latent_sha256": "0" * 64}), encoding="utf-8")
    assert generate("--replay", "fox.json") == 1
    assert "the latent differs" in capsys.readouterr().err


def test_a_replay_wants_the_same_pictures(stage: Stage, capsys):
    generate("--prompt", "a fox", "--reference", "a.png", "--out", "fox.mp4")
    os.rename("a.png", "moved.png")
    assert "a.png does not exist" in refused(capsys, "--replay", "fox.mp4")
    assert generate("--replay", "fox.mp4", "--reference", "moved.png") == 0
    os.rename("b.png", "a.png")
    assert "SHA-256 differs" in refused(capsys, "--replay", "fox.mp4")
    assert "2 references for a clip" in refused(capsys, "--replay", "fox.mp4", *["--reference", "moved.png"] * 2)


def test_a_replay_finds_pictures_beside_the_clip(stage: Stage, monkeypatch):
    generate("--prompt", "a fox", "--reference", "a.png", "--out", "fox.mp4")
    os.mkdir("elsewhere")
    monkeypatch.chdir("elsewhere")
    assert generate("--replay", "../fox.mp4") == 0


@pytest.mark.parametrize("setting", [["--seed", "0"], ["--reference-cfg", "2"], ["--compile"]])
def test_a_replay_takes_no_other_settings(stage: Stage, capsys, setting: list[str]):
    generate("--prompt", "a fox", "--out", "fox.mp4")
    assert f"--replay and {setting[0]}:" in refused(capsys, "--replay", "fox.mp4", *setting)


def test_every_setting_of_a_clip_is_the_replays_own():
    named_otherwise = {"height", "width", "attach_paths"}  # by --size and --official-text
    given_as_what_to_make = {"prompt", "references", "loras"}
    settings = {field.name for field in fields(Request)} - named_otherwise - given_as_what_to_make
    assert settings <= {*SETTINGS, *WEIGHTS}


def test_a_replay_takes_weights_from_where_they_lie_now(stage: Stage):
    generate("--prompt", "a fox", "--seed", "4", "--fps", "23.976", "--out", "fox.mp4")
    assert generate("--replay", "fox.mp4", "--model", "moved.safetensors", "--vae", "v.safetensors") == 0
    assert (stage.requests[1].model, stage.requests[1].vae) == ("moved.safetensors", "v.safetensors")
    assert (stage.requests[1].seed, stage.requests[1].fps) == (4, 23.976)


def test_a_replay_takes_the_recorded_loras_or_where_they_lie_now(stage: Stage):
    generate("--prompt", "a fox", "--lora", "a.safetensors:0.5", "--lora", "b.safetensors", "--out", "fox.mp4")
    assert generate("--replay", "fox.mp4") == 0
    assert generate("--replay", "fox.mp4", "--lora", "moved.safetensors:0.5") == 0
    recorded = ("a.safetensors:0.5", "b.safetensors")
    assert [request.loras for request in stage.requests] == [recorded, recorded, ("moved.safetensors:0.5",)]


def test_the_embedded_model_replays_to_the_bit(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64), "orange").save("a.png")
    words = ("--reference", "a.png", "--steps", "2", "--frames", "5", "--size", "64x64", "--device", "cpu")
    assert generate("--prompt", "the subject slides left", *words, "--out", "clip.mp4") == 0
    assert generate("--replay", "clip.mp4", "--device", "cpu", "--out", "again.mp4") == 0
    assert "identical latent" in capsys.readouterr().out
    assert read_video("clip.mp4").shape == (5, 64, 64, 3)
