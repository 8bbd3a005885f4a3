"""What a ComfyUI graph did, as the record that ``kaleido_core generate --replay`` reads.

Only graphs that the command line can repeat have one: Kaleido's own nodes, text, images and stock loaders, no LoRA.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import ExifTags, Image

from ..kaleido_core.checkpoints.load import TINY
from ..kaleido_core.errors import KaleidoError
from ..kaleido_core.generate import Request
from ..kaleido_core.request_files import VERSION, Record, ReferenceFile, file_sha256
from ..kaleido_core.shapes import VideoSize
from ..kaleido_core.text.prompt_tags import expand_tags
from . import comfy_adapter as host
from .models import PICTURES
from .references import SIZES, SOCKETS
from .sampling import PRESETS

Graph = Mapping[str, Mapping[str, Any]]  # the API prompt: node id -> class_type and inputs
Node = Mapping[str, Any]


class NotRepeatable(KaleidoError):
    """The graph does something that the command line cannot."""


def record_of_graph(graph: Graph, save_id: str, fps: float, beside: Path) -> Record:
    """The record of the clip that node ``save_id`` writes into the folder ``beside``.

    Raises ``NotRepeatable`` naming the node that stands in the way.
    """
    decode = _source(graph, _node(graph, save_id), "images", "VAEDecode")
    sampler = _source(graph, decode, "samples", "KaleidoSampler")
    places = {_link(sampler, name) for name in ("model", "positive", "negative", "latent")}
    references = _source(graph, sampler, "latent", "KaleidoReferences")
    if len({node for node, _ in places}) > 1:
        raise NotRepeatable("Something stands between Kaleido References and Kaleido Sampler.")
    inputs = references["inputs"]
    if inputs.get("batch_size", 1) != 1 or inputs.get("fit") != "letterbox" or _connected(references, "masks.mask"):
        raise NotRepeatable("Batches, crops and masks are not known to the command line.")
    height, width = SIZES.get(inputs["size"], (inputs["height"], inputs["width"]))
    size = VideoSize(inputs["length"], height, width)
    pictures = [_image(graph, references, name) for name in _connected(references, "references.image")]
    steps, cfg, shift = PRESETS.get(
        sampler["inputs"]["preset"], tuple(sampler["inputs"][name] for name in ("steps", "cfg", "shift"))
    )
    request = Request(
        prompt=_text(graph, _source(graph, references, "positive", "CLIPTextEncode")),
        negative=_text(graph, _source(graph, references, "negative", "CLIPTextEncode")),
        references=tuple(_relative(path, beside) for path in pictures),
        height=size.height,
        width=size.width,
        frames=size.frames,
        steps=steps,
        cfg=cfg,
        shift=shift,
        seed=sampler["inputs"]["seed"],
        fps=round(fps),
        allow_extra_references=inputs.get("allow_more", False),
        **_models(graph, references),
    )
    files = tuple(ReferenceFile(_relative(path, beside), file_sha256(path)) for path in pictures)
    return Record(VERSION, torch.__version__, "ComfyUI", request, files, latent_sha256="")


def _node(graph: Graph, number: str) -> Node:
    if number not in graph:
        raise NotRepeatable(f"Node {number} is not in the graph.")
    return graph[number]


def _link(node: Node, name: str) -> tuple[str, int]:
    value = node["inputs"].get(name)
    if not isinstance(value, list) or len(value) != 2:
        raise NotRepeatable(f"{name} of {node['class_type']} is not connected.")
    return str(value[0]), int(value[1])


def _source(graph: Graph, node: Node, name: str, wanted: str) -> Node:
    """The node behind an input, which must be of the class ``wanted``."""
    source = _node(graph, _link(node, name)[0])
    if source["class_type"] != wanted:
        raise NotRepeatable(f"{name} of {node['class_type']} comes from {source['class_type']}, not {wanted}.")
    return source


def _connected(node: Node, prefix: str) -> list[str]:
    names = [f"{prefix}{index + 1}" for index in range(SOCKETS)]
    return [name for name in names if isinstance(node["inputs"].get(name), list)]


def _image(graph: Graph, references: Node, name: str) -> Path:
    node = _node(graph, _link(references, name)[0])
    if node["class_type"] == "KaleidoDemoReferences":
        return PICTURES[node["inputs"]["picture"]]
    path = host.input_file(_source(graph, references, name, "LoadImage")["inputs"]["image"])
    with Image.open(path) as picture:
        if picture.getexif().get(ExifTags.Base.Orientation, 1) != 1 or getattr(picture, "n_frames", 1) != 1:
            raise NotRepeatable(f"{path.name} is turned by its EXIF orientation, or holds several pictures.")
    return path


def _text(graph: Graph, encode: Node) -> str:
    text = encode["inputs"]["text"]
    if isinstance(text, str):
        return text
    tags = _source(graph, encode, "text", "KaleidoPrompt")["inputs"]
    names = tuple(tags.get(f"name{i + 1}", "") for i in range(tags["count"]))
    if not isinstance(tags["text"], str) or not all(isinstance(name, str) for name in names):
        raise NotRepeatable("The words of Kaleido Prompt come from another node.")
    return expand_tags(tags["text"], names, tags["template"]).text


def _models(graph: Graph, references: Node) -> dict[str, Any]:
    """The fields of ``Request`` that name the model's parts."""
    loader = _node(graph, _link(references, "model")[0])
    if loader["class_type"] == "KaleidoDemoModel":
        return {"model": TINY}
    if loader["class_type"] != "KaleidoLoadModel":
        raise NotRepeatable(f"The model comes through {loader['class_type']}.")
    encode = _source(graph, references, "positive", "CLIPTextEncode")
    clip = _source(graph, encode, "clip", "CLIPLoader")["inputs"]["clip_name"]
    vae = _source(graph, references, "vae", "VAELoader")["inputs"]["vae_name"]
    return {
        "model": str(host.model_file(loader["inputs"]["model_name"])),
        "text_encoder": str(host.model_file(clip, "text_encoders")),
        "vae": str(host.model_file(vae, "vae")),
    }


def _relative(path: Path, beside: Path) -> str:
    try:
        return Path(os.path.relpath(path, beside)).as_posix()
    except ValueError:  # another drive of Windows
        return path.as_posix()
