"""Kaleido Save Video: the file, what it remembers, and its record."""

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from kaleido_core.checkpoints.load import ASSETS, DEMO_REFERENCES, TINY_FILES
from kaleido_core.errors import DataError
from kaleido_core.generate import load_models, render
from kaleido_core.request import DEFAULTS_TINY
from kaleido_core.request_files import find_recorded, read_record
from kaleido_core.video import FORMATS, read_video

from .conftest import Pack, image, needs_host
from .test_graph import distance

RED = Image.new("RGB", (8, 6), "red")
TURNED = Image.Exif()
TURNED[ExifTags.Base.Orientation] = 6


def demo_graph(**changes: Any) -> dict[str, Any]:
    """The API form of the demo template; ``changes`` replace nodes."""
    nodes = {
        "1": ("KaleidoDemoModel", {}),
        "2": ("KaleidoDemoReferences", {"picture": "duck"}),
        "3": ("KaleidoPrompt", {"text": "@image1 spins.", "count": 1, "name1": "a duck", "template": "names"}),
        "4": ("CLIPTextEncode", {"clip": ["1", 1], "text": ["3", 0]}),
        "5": ("CLIPTextEncode", {"clip": ["1", 1], "text": "blur"}),
        "6": ("KaleidoReferences", {
            "model": ["1", 0], "positive": ["4", 0], "negative": ["5", 0], "vae": ["1", 2], "size": "custom",
            "width": 64, "height": 48, "length": 5, "batch_size": 1, "fit": "letterbox", "allow_more": False,
            "references.image1": ["2", 0],
        }),
        "7": ("KaleidoSampler", {
            "model": ["6", 0], "positive": ["6", 1], "negative": ["6", 2], "latent": ["6", 3], "seed": 3,
            "preset": "custom", "steps": 2, "cfg": 2.0, "shift": 3.0,
        }),
        "8": ("VAEDecode", {"samples": ["7", 0], "vae": ["1", 2]}),
        "9": ("KaleidoSaveVideo", {"images": ["8", 0]}),
    }  # fmt: skip
    nodes |= {key.removeprefix("n"): value for key, value in changes.items()}
    return {number: {"class_type": kind, "inputs": inputs} for number, (kind, inputs) in nodes.items()}


def save(pack: Pack, graph: Any = None, form: str = "mp4 h264", workflow: Any = None, **more: Any) -> Path:
    frames = torch.rand(5, 48, 64, 3, generator=torch.manual_seed(0))
    inputs = {"images": frames, "fps": 8.0, "format": form, "quality": 90, "filename_prefix": "kaleido/test", **more}
    hidden = {"unique_id": "9", "prompt": graph, "extra_pnginfo": workflow}
    (saved,) = pack.run("KaleidoSaveVideo", hidden, **inputs).ui.as_dict()["images"]
    import folder_paths  # pyright: ignore[reportMissingImports]

    return Path(folder_paths.get_output_directory(), saved["subfolder"], saved["filename"])


@pytest.mark.parametrize("form", FORMATS)
def test_each_save_is_a_new_file_and_carries_the_graph(pack: Pack, form: str):
    graph, workflow = demo_graph(), {"workflow": {"nodes": [1, "ü"]}}
    first, second = (save(pack, graph, form, workflow) for _ in range(2))
    assert first != second and first.is_file() and second.is_file()
    content = first.read_bytes()
    if form != "gif":
        assert json.dumps(graph).encode() in content and json.dumps(workflow["workflow"]).encode() in content
    if form.startswith("mp4"):
        assert read_video(first).shape == (5, 48, 64, 3)


def test_the_record_beside_it_repeats_the_demo_graph(pack: Pack):
    path = save(pack, demo_graph())
    record = read_record(path.with_suffix(".json"))
    request = record.request
    assert (request.prompt, request.negative, request.model) == ("A duck spins.", "blur", "tiny")
    assert (request.frames, request.height, request.width) == (5, 48, 64)
    assert (request.steps, request.cfg, request.shift, request.seed, request.fps) == (2, 2.0, 3.0, 3, 8)
    (reference,) = find_recorded(record, path.parent)
    assert reference.name == "duck.png" and not record.latent_sha256
    assert read_record(path).request == request  # the mp4 itself says the same


def test_presets_and_named_sizes_are_recorded_as_what_they_mean(pack: Pack):
    graph = demo_graph()
    graph["6"]["inputs"]["size"], graph["7"]["inputs"]["preset"] = "demo 128x128", "kaleido demo"
    request = read_record(save(pack, graph).with_suffix(".json")).request
    assert (request.height, request.width, request.steps) == (128, 128, 20)
    assert (request.cfg, request.reference_cfg) == (DEFAULTS_TINY.cfg, DEFAULTS_TINY.reference_cfg)


def test_guidance_by_the_references_is_recorded_and_its_lack_too(pack: Pack):
    graph = demo_graph()
    assert read_record(save(pack, graph).with_suffix(".json")).request.reference_cfg == 1.0
    graph["7"]["inputs"]["reference_cfg"] = 2.5
    assert read_record(save(pack, graph).with_suffix(".json")).request.reference_cfg == 2.5


@pytest.mark.parametrize(("changes", "reason"), [
    ({"n7": ("KSampler", {})}, "KSampler"),
    ({"n8": ("VAEDecodeTiled", {"samples": ["7", 0]})}, "VAEDecodeTiled"),
    ({"n2": ("ImageScale", {})}, "ImageScale"),
    ({"n1": ("LoraLoaderModelOnly", {})}, "LoraLoaderModelOnly"),
    ({"n9": ("KaleidoSaveVideo", {})}, "not connected"),
    ({"n8": ("VAEDecode", {"samples": ["7", 0], "vae": ["2", 0]})}, "another VAE"),
    ({"n5": ("CLIPTextEncode", {"clip": ["2", 0], "text": "blur"})}, "two text encoders"),
    ({"n7": ("KaleidoSampler", {
        "model": ["6", 0], "positive": ["6", 2], "negative": ["6", 1], "latent": ["6", 3], "seed": 3,
    })}, "positive of KaleidoSampler is not"),
    ({"n7": ("KaleidoSampler", {
        "model": ["6", 0], "positive": ["6", 1], "negative": ["6", 2], "latent": ["6", 3], "seed": ["10", 0],
        "preset": "kaleido demo", "steps": 2, "cfg": 2.0, "shift": 3.0,
    })}, "seed of KaleidoSampler comes from another node"),
])  # fmt: skip
def test_a_graph_that_the_command_line_cannot_repeat_says_why(pack: Pack, changes, reason: str):
    path = save(pack, demo_graph(**changes)).with_suffix(".json")
    assert reason in path.read_text()
    with pytest.raises(DataError):
        read_record(path)


FILES = {
    "n1": ("KaleidoLoadModel", {"model_name": "kaleido.safetensors", "weight_dtype": "default"}),
    "n10": ("CLIPLoader", {"clip_name": "umt5.safetensors"}),
    "n11": ("VAELoader", {"vae_name": "wan.safetensors"}),
    "n4": ("CLIPTextEncode", {"clip": ["10", 0], "text": "A duck spins."}),
    "n5": ("CLIPTextEncode", {"clip": ["10", 0], "text": "blur"}),
    "n8": ("VAEDecode", {"samples": ["7", 0], "vae": ["11", 0]}),
}


def files_graph(**changes: Any) -> dict[str, Any]:
    """The 14B template."""
    graph = demo_graph(**{**FILES, **changes})
    graph["6"]["inputs"]["vae"] = ["11", 0]
    return graph


@pytest.fixture
def spiece(pack: Pack, monkeypatch) -> None:
    """The embedded tokenizer in the place of every text encoder's."""
    monkeypatch.setattr(pack.adapter, "model_file", lambda name, folder: ASSETS / TINY_FILES["tokenizer"])


@pytest.mark.usefixtures("spiece")
def test_files_are_recorded_by_the_names_the_loaders_show(pack: Pack):
    request = read_record(save(pack, files_graph(), fps=23.976).with_suffix(".json")).request
    assert (request.model, request.text_encoder) == ("kaleido.safetensors", "umt5.safetensors")
    assert (request.vae, request.fps) == ("wan.safetensors", 23.976)


@pytest.mark.parametrize(("changes", "reason"), [
    ({"n1": ("KaleidoLoadModel", {"model_name": "k", "weight_dtype": "fp8_e4m3fn"})}, "loaded as fp8_e4m3fn"),
    ({"n4": ("CLIPTextEncode", {"clip": ["10", 0], "text": "A (duck:1.3) spins."})}, "brackets"),
    ({"n4": ("CLIPTextEncode", {"clip": ["10", 0], "text": "embedding:duck spins"})}, "embedding"),
    ({"n4": ("CLIPTextEncode", {"clip": ["10", 0], "text": "A “duck” spins."})}, "curly quotes"),
    ({"n5": ("CLIPTextEncode", {"clip": ["10", 0], "text": "1,2,3," * 200})}, "too long"),
])  # fmt: skip
@pytest.mark.usefixtures("spiece")
def test_what_the_host_reads_otherwise_is_not_recorded(pack: Pack, changes, reason: str):
    assert reason in save(pack, files_graph(**changes)).with_suffix(".json").read_text()


@pytest.mark.usefixtures("spiece")
@pytest.mark.parametrize("changes", [
    {"n1": ("UNETLoader", {"unet_name": "kaleido.safetensors", "weight_dtype": "default"})},
    {"n12": ("KaleidoLoadModel", {"model_name": "kaleido.safetensors", "weight_dtype": "default"}),
     "n1": ("KaleidoApply", {"model": ["12", 0]})},
])  # fmt: skip
def test_any_way_to_the_same_model_is_recorded(pack: Pack, changes):
    assert read_record(save(pack, files_graph(**changes)).with_suffix(".json")).request.model == "kaleido.safetensors"


def test_widgets_that_a_choice_overrules_may_be_linked(pack: Pack):
    graph = demo_graph()
    graph["7"]["inputs"] |= {"preset": "kaleido demo", "steps": ["20", 0]}
    graph["6"]["inputs"] |= {"size": "demo 128x128", "width": ["20", 0]}
    request = read_record(save(pack, graph).with_suffix(".json")).request
    assert (request.steps, request.width) == (20, 128)


@pytest.mark.parametrize(("name", "mode", "options"), [
    ("photo.jpg", "RGB", {}), ("grey.png", "L", {}), ("deep.png", "I;16", {}),
    ("turned.png", "RGB", {"exif": TURNED}), ("moving.png", "RGB", {"save_all": True, "append_images": [RED]}),
])  # fmt: skip
def test_a_picture_that_load_image_reads_otherwise_is_not_recorded(
    pack: Pack, monkeypatch, tmp_path, name, mode, options
):
    Image.new(mode, (8, 6), 9).save(tmp_path / name, **options)
    monkeypatch.setattr(pack.adapter, "input_file", lambda name: tmp_path / name)
    text = save(pack, demo_graph(n2=("LoadImage", {"image": name}))).with_suffix(".json").read_text()
    assert "save it as an 8-bit colour PNG" in text


@needs_host
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_load_image_and_the_command_line_read_a_png_alike(pack: Pack, monkeypatch, tmp_path: Path, mode: str):
    nodes: Any = importlib.import_module("nodes")

    noise = np.random.default_rng(0).integers(0, 256, (9, 7, 4), dtype=np.uint8)
    Image.fromarray(noise).convert("RGB" if mode != "RGBA" else mode).convert(mode).save(tmp_path / "noise.png")
    monkeypatch.setattr("folder_paths.get_annotated_filepath", lambda name, *rest: str(tmp_path / name))
    pixels = nodes.LoadImage().load_image("noise.png")[0]
    assert torch.equal(pixels, image(Image.open(tmp_path / "noise.png")))


def test_no_folder_of_the_maker_goes_into_a_clip(pack: Pack, monkeypatch, tmp_path: Path):
    Image.new("RGB", (8, 6), "red").save(tmp_path / "red.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    monkeypatch.setattr(pack.adapter, "input_file", lambda name: tmp_path / name)
    for name in ("red.png", "broken.png"):
        path = save(pack, demo_graph(n2=("LoadImage", {"image": name})))
        assert name in path.with_suffix(".json").read_text() or name == "broken.png"
        assert str(tmp_path) not in path.with_suffix(".json").read_text() + path.read_bytes().decode("latin1")


def test_the_command_line_makes_the_graphs_clip_again(pack: Pack, demo):
    """What is recorded of a graph, rendered by the core, against what the graph's own nodes make."""
    request = read_record(save(pack, demo_graph()).with_suffix(".json")).request
    assert (request.width, request.height, request.frames) == (64, 48, 5)
    (duck,) = pack.run("KaleidoDemoReferences", picture="duck").args
    model, clip, vae = demo
    (prompt,) = pack.run("KaleidoPrompt", text="@image1 spins.", count=1, name1="a duck", template="names").args
    texts = {"positive": pack.encode_text(clip, prompt), "negative": pack.encode_text(clip, "blur")}
    made = pack.run(
        "KaleidoReferences", model=model, vae=vae, size="custom", width=64, height=48, length=5, batch_size=1,
        fit="letterbox", references={"image1": duck}, **texts,
    ).args[:4]  # fmt: skip
    names = ("model", "positive", "negative", "latent")
    settings = {"seed": 3, "preset": "custom", "steps": 2, "cfg": 2.0, "shift": 3.0}
    (latent,) = pack.run("KaleidoSampler", **dict(zip(names, made, strict=True)), **settings).args
    again = render(load_models(request), request, [Image.open(DEMO_REFERENCES / "duck.png")]).latent
    # Two steps of rounding, on any processor: 1.07e-5 was the most.
    assert distance(pack.normalised(latent["samples"]), again) <= 3e-5


def test_a_save_without_a_graph_still_saves(pack: Pack):
    assert read_video(save(pack, None)).shape[0] == 5


def test_an_odd_size_is_refused_and_leaves_nothing(pack: Pack):
    import folder_paths  # pyright: ignore[reportMissingImports]

    with pytest.raises(ValueError, match="even width"):
        save(pack, images=torch.rand(5, 47, 64, 3), filename_prefix="odd/clip")
    assert not list(Path(folder_paths.get_output_directory(), "odd").iterdir())


def test_without_metadata_nothing_of_the_graph_is_written(pack: Pack, monkeypatch):
    monkeypatch.setattr(pack.adapter, "may_save_workflow", lambda: False)
    path = save(pack, demo_graph(), workflow={"workflow": {}}, filename_prefix="bare/clip")
    assert b"KaleidoSampler" not in path.read_bytes() and not path.with_suffix(".json").exists()


def test_what_no_one_foresaw_does_not_cost_the_clip(pack: Pack):
    path = save(pack, {"9": {"class_type": "KaleidoSaveVideo", "inputs": {"images": [8, None]}}})
    assert "TypeError while reading the graph" in path.with_suffix(".json").read_text() and len(read_video(path)) == 5
