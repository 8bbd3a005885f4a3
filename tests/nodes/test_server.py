"""The pack inside a running ComfyUI: its nodes among the stock nodes that people use with them.

nodes/README.md tells how to run it and holds what came out. What is measured goes into the file of --junitxml.
"""

import io
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor

from kaleido_core.checkpoints.load import ASSETS
from kaleido_core.config import LATENT_MEAN, LATENT_STD
from kaleido_core.video import read_metadata, read_video

from . import server_client as client
from .server_client import MODEL, OTHER, OURS, PLACE, VAE, Graph, Link, Server, base_graph, file_graph, lora, node
from .test_graph import PROMPT, ROUNDING, SIZE, STEPS, core_latent, distance

MODELS = os.environ.get("KALEIDO_COMFYUI_MODELS")
Measure = Callable[[Tensor, Tensor], float]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    url = os.environ.get("KALEIDO_COMFYUI_URL")
    if not url:
        pytest.skip("KALEIDO_COMFYUI_URL is not set")
    yield Server(url)
    for path in [*Path(MODELS).parent.glob(f"*/{OURS}*"), *Path(MODELS).glob(f"*/{OURS}*")] if MODELS else []:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.fixture
def away(record_property: Callable[[str, object], None]) -> Measure:
    """The relative difference of two latents, which is recorded too."""
    return lambda *latents: record_property("difference", distance(*latents)) or distance(*latents)


def latent_of(server: Server, graph: Graph) -> Tensor:
    (saved,) = server.run(graph)["saved"]["latents"]
    return safetensors.torch.load(server.view(saved))["latent_tensor"]


def frames_of(server: Server, graph: Graph, latent: Link, decode: str = "VAEDecode", **more: Any) -> np.ndarray:
    """A latent's frames as the page shows them, ``[T H W 3]`` in 0..1."""
    decoded = node(decode, samples=latent, vae=VAE, **more)
    frames = node("SaveImage", images=["decoded", 0], filename_prefix=PLACE)
    saved = server.run(graph | {"decoded": decoded, "frames": frames})["frames"]["images"]
    return np.stack([np.asarray(Image.open(io.BytesIO(server.view(one))), np.float32) / 255 for one in saved])


WINDOWS = {"length": 33, "behind": [node("WanContextWindowsManual", context_length=17, context_overlap=8)]}
STOCK: dict[str, dict[str, Any]] = {
    "KSampler": {"sampling": client.ksampler},
    "KSampler, uni_pc": {"sampling": lambda model: client.ksampler(model, sampler_name="uni_pc")},
    "KSampler, batch 2": {"sampling": client.ksampler, "batch_size": 2},
    "KSamplerAdvanced, 2 stages": {"sampling": client.two_stages},
    "second pass, denoise 0.5": {"sampling": client.second_pass},
    "ModelSamplingSD3": {"sampling": client.ksampler, "behind": [node("ModelSamplingSD3", shift=5.0)]},
    "context windows": WINDOWS,
    "guided by the references": {"sampling": lambda model: client.kaleido_sampler(model, reference_cfg=2.0)},
    "the same in context windows": {
        "sampling": lambda model: client.kaleido_sampler(model, reference_cfg=2.0),
        **WINDOWS,
    },
}


def test_the_server_gives_the_cores_latent(server: Server, away: Measure):
    latent = latent_of(server, base_graph())
    mean, std = (torch.tensor(values).view(-1, 1, 1, 1) for values in (LATENT_MEAN, LATENT_STD))
    pictures = [Image.open(ASSETS / "references" / name).convert("RGB") for name in ("duck.png", "robot_face.png")]
    assert away((latent - mean) / std, core_latent(pictures, 1)) <= ROUNDING


def test_stock_custom_sampling_with_kaleido_sigmas_gives_kaleido_samplers_latent(server: Server, away: Measure):
    assert away(latent_of(server, base_graph(client.custom_sampling)), latent_of(server, base_graph())) <= 1e-6


@pytest.mark.parametrize("case", STOCK)
def test_stock_samplers_give_finite_latents_that_follow_the_references(server: Server, away: Measure, case: str):
    graph, size = base_graph(**STOCK[case]), replace(SIZE, frames=STOCK[case].get("length", SIZE.frames))
    latent, other = latent_of(server, graph), latent_of(server, graph | OTHER)
    assert latent.shape == size.latent_shape(batch=STOCK[case].get("batch_size", 1)) and latent.isfinite().all()
    assert away(other, latent) > 1e-3


ALWAYS = {"start_percent": 0.0, "end_percent": 1.0}
PATCHES = {
    "EasyCache": node("EasyCache", reuse_threshold=3.0, **ALWAYS),
    "LazyCache": node("LazyCache", reuse_threshold=3.0, **ALWAYS),
    "SkipLayerGuidanceDiT": node("SkipLayerGuidanceDiT", double_layers="4, 5", **ALWAYS),
}


@pytest.mark.parametrize("reference_cfg", [1.0, 2.0])
@pytest.mark.parametrize("case", PATCHES)
def test_patches_change_the_latent_as_much_before_kaleido_references_as_behind(
    server: Server, away: Measure, case: str, reference_cfg: float
):
    settings = {"steps": 6, "reference_cfg": reference_cfg}

    def latent(**patches: Any) -> Tensor:
        return latent_of(server, base_graph(lambda model: client.kaleido_sampler(model, **settings), **patches))

    changed = latent(behind=[PATCHES[case]])
    assert torch.equal(latent(before=[PATCHES[case]]), changed)
    assert changed.isfinite().all() and away(changed, latent()) > 1e-3


@pytest.mark.parametrize("kind", ["KaleidoAttention", "ModelAttentionBackend", "TorchCompileModel"])
def test_other_kernels_give_the_same_latent(server: Server, away: Measure, kind: str):
    if kind == "TorchCompileModel" and not os.environ.get("KALEIDO_COMFYUI_SLOW"):
        pytest.skip("KALEIDO_COMFYUI_SLOW is not set")
    assert away(latent_of(server, base_graph(behind=[node(kind)])), latent_of(server, base_graph())) <= 1e-4


@pytest.fixture(scope="module")
def plain(server: Server) -> Path:
    if not MODELS:
        pytest.skip("KALEIDO_COMFYUI_MODELS is not set")
    return client.write_plain(Path(MODELS))


QUANTISED: dict[str, tuple[Callable[[Path, Path], dict[str, Tensor]], str, str, float]] = {
    "comfy_quant": (client.write_comfy_quant, "comfy_quant.safetensors", "UNETLoader", 1e-5),
    "scaled fp8": (client.write_scaled_fp8, "scaled_fp8.safetensors", "UNETLoader", 1e-5),
    # That loader multiplies in float16. What eight bits themselves change is 4e-2.
    "GGUF Q8_0": (client.write_gguf, "q8.gguf", "UnetLoaderGGUF", 5e-3),
}


@pytest.mark.parametrize("kind", ["UNETLoader", "KaleidoLoadModel"])
def test_a_model_file_is_the_demo_model_through_either_loader(server: Server, plain: Path, away: Measure, kind: str):
    assert away(latent_of(server, file_graph(plain, kind)), latent_of(server, base_graph())) <= 1e-5


@pytest.mark.parametrize("form", QUANTISED)
def test_quantised_files_give_the_latent_of_their_weights(server: Server, plain: Path, away: Measure, form: str):
    write, name, kind, tolerance = QUANTISED[form]
    server.require(kind)
    path = plain.with_name(f"{OURS}_{name}")
    exact = path.with_suffix(".exact.safetensors")
    client.save(write(plain, path), exact)
    graph = file_graph(path, kind)
    latent = latent_of(server, graph)
    assert distance(latent_of(server, graph | OTHER), latent) > 1e-3
    assert torch.equal(latent_of(server, file_graph(path, kind, before=[node("KaleidoApply")])), latent)
    assert away(latent, latent_of(server, file_graph(exact))) <= tolerance


def test_a_lora_is_the_same_by_either_names_before_and_behind_apply(server: Server, plain: Path, away: Measure):
    apply, peft, kohya = node("KaleidoApply"), *(lora(plain.parents[1], keys) for keys in ("peft", "kohya"))
    orders = ([peft, apply], [apply, peft], [kohya, apply], [apply, kohya])
    latent, *others = (latent_of(server, file_graph(plain, before=patches)) for patches in orders)
    behind = latent_of(server, file_graph(plain, behind=[peft]))
    assert all(torch.equal(latent, other) for other in (*others, behind))
    assert away(latent, latent_of(server, file_graph(plain))) > 1e-3


def test_a_model_merged_with_its_lora_has_half_the_lora(server: Server, plain: Path, away: Measure):
    full, half = (lora(plain.parents[1], "peft", strength) for strength in (1.0, 0.5))
    full["inputs"]["model"] = MODEL
    merged = node("ModelMergeSimple", model1=MODEL, model2=["lora", 0], ratio=0.5)
    expected = latent_of(server, base_graph(before=[half]))
    merge = latent_of(server, base_graph(model=["merged", 0]) | {"merged": merged, "lora": full})
    assert away(merge, expected) <= 1e-4 < distance(expected, latent_of(server, base_graph()))


@pytest.fixture(scope="module")
def patterns(server: Server) -> np.ndarray:
    """References of black and white squares, unlike all that the model makes, ``[2 H W]``; the server has them too."""
    squares = np.random.default_rng(0).integers(0, 2, (2, SIZE.height // 8, SIZE.width // 8)).astype(np.uint8)
    pictures = 255 * np.kron(squares, np.ones((1, 8, 8), np.uint8))
    for number, picture in enumerate(pictures):
        png = io.BytesIO()
        Image.fromarray(picture).convert("RGB").save(png, "PNG")
        server.upload(f"{OURS}_{number}.png", png.getvalue())
    return pictures


def likeness(frames: np.ndarray, pictures: np.ndarray) -> float:
    """The best correlation of any frame ``[T H W 3]`` with any picture ``[N H W]``."""
    rows = np.concatenate([frames.mean(axis=-1), pictures]).reshape(len(frames) + len(pictures), -1)
    return float(np.corrcoef(rows)[: len(frames), len(frames) :].max())


CLIPS: dict[str, dict[str, Any]] = {
    "one clip": {"length": 17},
    "batch 2": {"length": 17, "batch_size": 2},
    "context windows": WINDOWS,
}


@pytest.mark.parametrize("clip", CLIPS)
def test_no_frame_of_a_clip_is_a_reference(server: Server, patterns: np.ndarray, record_property, clip: str):
    load = {f"picture{n}": node("LoadImage", image=f"{OURS}_{n}.png") for n in range(2)}
    links: dict[str, Any] = {f"references.image{n + 1}": [f"picture{n}", 0] for n in range(2)}
    graph = load | base_graph(**CLIPS[clip], **links) | {"encoded": node("VAEEncode", pixels=["picture1", 0], vae=VAE)}
    frames, reference = (frames_of(server, graph, latent) for latent in (["sampler", 0], ["encoded", 0]))
    record_property("best frame", likeness(frames, patterns))
    record_property("a reference", likeness(reference, patterns))
    assert len(frames) == CLIPS[clip]["length"] * CLIPS[clip].get("batch_size", 1)
    assert likeness(frames, patterns) < 0.5 and likeness(reference, patterns) > 0.9


def test_tiles_decode_to_nearly_the_same_frames(server: Server, record_property):
    graph = base_graph(width=128, height=128)
    whole = frames_of(server, graph, ["sampler", 0])
    tiled = frames_of(server, graph, ["sampler", 0], "VAEDecodeTiled", tile_size=64, overlap=32)
    record_property("mean difference", float(np.abs(whole - tiled).mean()))
    assert whole.shape == tiled.shape == (SIZE.frames, 128, 128, 3) and 0 < np.abs(whole - tiled).mean() < 0.05


def saved_video(server: Server, folder: Path, nodes: Graph, **extra: Any) -> Path:
    """The file that the node "video" makes of the base graph's frames."""
    decoded = node("VAEDecode", samples=["sampler", 0], vae=VAE)
    (saved,) = server.run(base_graph() | {"decoded": decoded} | nodes, **extra)["video"]["images"]
    path = folder / saved["filename"]
    path.write_bytes(server.view(saved))
    assert read_video(path).shape == (SIZE.frames, SIZE.height, SIZE.width, 3)
    return path


def test_stock_nodes_save_the_clip(server: Server, tmp_path: Path):
    clip = node("CreateVideo", images=["decoded", 0], fps=8.0)
    video = node("SaveVideo", video=["clip", 0], filename_prefix=PLACE, format="mp4", codec="h264")
    assert saved_video(server, tmp_path, {"clip": clip, "video": video}).suffix == ".mp4"


def test_the_page_gets_kaleido_save_videos_file_with_the_graph_inside(server: Server, tmp_path: Path):
    video, workflow = node("KaleidoSaveVideo", images=["decoded", 0], filename_prefix=PLACE), {"nodes": ["ü"]}
    path = saved_video(server, tmp_path, {"video": video}, extra_pnginfo={"workflow": workflow})
    assert read_metadata(path)["request"]["prompt"] == PROMPT
    assert all(text in path.read_bytes() for text in (json.dumps(workflow).encode(), b'"class_type": "KaleidoSampler"'))


def test_the_plan_is_text_on_the_node(server: Server):
    graph = {"demo": node("KaleidoDemoModel"), "plan": node("KaleidoPlan", model=MODEL, vram=24.0)}
    assert "GiB" in server.run(graph)["plan"]["text"][0]


def test_previews_come_when_asked_for_and_only_then(server: Server, record_property):
    counts = {}
    with closing(client.Events(server)) as events:
        for seed, method in enumerate(("none", "latent2rgb")):
            graph = base_graph(lambda model, seed=seed: client.kaleido_sampler(model, seed=seed))
            messages = events.of(server.queue(graph, preview_method=method))
            counts[method] = sum(kind == client.BINARY and b"JFIF" in content for kind, content in messages)
    record_property("previews", counts["latent2rgb"])
    assert counts["none"] == 0 < counts["latent2rgb"] <= STEPS


def test_a_stopped_clip_stops_at_once_and_the_next_is_whole(server: Server, record_property):
    expected = latent_of(server, base_graph())
    with closing(client.Events(server)) as events:
        prompt = server.queue(base_graph(lambda model: client.kaleido_sampler(model, steps=1000)))
        next(content for _, content in events.of(prompt) if b'"type": "progress"' in content)
        start = time.monotonic()
        server.ask("/interrupt", b"{}")
        with pytest.raises(RuntimeError, match="execution_interrupted"):
            server.wait(prompt)
    record_property("seconds", time.monotonic() - start)
    assert time.monotonic() - start < 5
    assert torch.equal(latent_of(server, base_graph(behind=[node("KaleidoApply")])), expected)
