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
Link = tuple[str, int]  # a node's id and the number of its output

CUT_TOKENS = 512  # the command line's text encoder reads no more; ComfyUI's has no end
TOKEN_BYTES = 3  # of UTF-8, at least, in ordinary text


class NotRepeatable(KaleidoError):
    """The graph does something that the command line cannot."""


def record_of_graph(graph: Graph, save_id: str, fps: float, beside: Path) -> Record:
    """The record of the clip that node ``save_id`` writes into the folder ``beside``.

    Raises ``NotRepeatable`` naming the node that stands in the way. Weights are recorded by the names the loaders
    show, without their folders.
    """
    decode = _source(graph, _node(graph, save_id), "images", "VAEDecode")
    sampler = _source(graph, decode, "samples", "KaleidoSampler")
    references = _source(graph, sampler, "latent", "KaleidoReferences", 3)
    for place, name in enumerate(("model", "positive", "negative")):
        if _link(sampler, name) != (_link(sampler, "latent")[0], place):
            raise NotRepeatable(f"{name} of KaleidoSampler is not the {name} of Kaleido References.")
    if _link(decode, "vae") != _link(references, "vae"):
        raise NotRepeatable("The clip is decoded by another VAE than the references were encoded by.")
    if _value(references, "batch_size", 1) != 1 or _value(references, "fit") != "letterbox":
        raise NotRepeatable("Batches and crops are not known to the command line.")
    if _connected(references, "masks.mask"):
        raise NotRepeatable("Masks are not known to the command line.")
    height, width = SIZES.get(_value(references, "size"), (_value(references, "height"), _value(references, "width")))
    size = VideoSize(_value(references, "length"), height, width)
    pictures = [_image(graph, references, name) for name in _connected(references, "references.image")]
    own = tuple(_value(sampler, name) for name in ("steps", "cfg", "shift"))
    steps, cfg, shift = PRESETS.get(_value(sampler, "preset"), own)
    models = _models(graph, references)
    prompt, negative = (_text(graph, references, name, models["model"]) for name in ("positive", "negative"))
    request = Request(
        prompt=prompt,
        negative=negative,
        references=tuple(_relative(path, beside) for path in pictures),
        height=size.height,
        width=size.width,
        frames=size.frames,
        steps=steps,
        cfg=cfg,
        shift=shift,
        seed=_value(sampler, "seed"),
        fps=fps,
        allow_extra_references=_value(references, "allow_more", False),
        **models,
    )
    files = tuple(ReferenceFile(_relative(path, beside), file_sha256(path)) for path in pictures)
    return Record(VERSION, torch.__version__, "ComfyUI", request, files, latent_sha256="")


def _node(graph: Graph, number: str) -> Node:
    if number not in graph:
        raise NotRepeatable(f"Node {number} is not in the graph.")
    return graph[number]


def _value(node: Node, name: str, default: Any = None) -> Any:
    """A widget's value."""
    value = node["inputs"].get(name, default)
    if isinstance(value, list) or value is None:
        raise NotRepeatable(f"{name} of {node['class_type']} {'comes from another node' if value else 'is missing'}.")
    return value


def _link(node: Node, name: str) -> Link:
    value = node["inputs"].get(name)
    if not isinstance(value, list) or len(value) != 2:
        raise NotRepeatable(f"{name} of {node['class_type']} is not connected.")
    return str(value[0]), int(value[1])


def _source(graph: Graph, node: Node, name: str, wanted: str, output: int = 0) -> Node:
    """The node behind an input, which must be of the class ``wanted`` and connected by that ``output``."""
    number, place = _link(node, name)
    source = _node(graph, number)
    if source["class_type"] != wanted or place != output:
        raise NotRepeatable(f"{name} of {node['class_type']} comes from {source['class_type']}, not {wanted}.")
    return source


def _connected(node: Node, prefix: str) -> list[str]:
    names = [f"{prefix}{index + 1}" for index in range(SOCKETS)]
    return [name for name in names if isinstance(node["inputs"].get(name), list)]


def _image(graph: Graph, references: Node, name: str) -> Path:
    node = _node(graph, _link(references, name)[0])
    if node["class_type"] == "KaleidoDemoReferences":
        return PICTURES[_value(node, "picture")]
    path = host.input_file(_value(_source(graph, references, name, "LoadImage"), "image"))
    with Image.open(path) as picture:
        if picture.getexif().get(ExifTags.Base.Orientation, 1) != 1 or getattr(picture, "n_frames", 1) != 1:
            raise NotRepeatable(f"{path.name} is turned by its EXIF orientation, or holds several pictures.")
    return path


def _text(graph: Graph, references: Node, name: str, model: str) -> str:
    """What the text encoder reads; the host's own encoder, unlike the embedded one, weighs words in brackets."""
    text = _written(graph, _source(graph, references, name, "CLIPTextEncode"))
    if model != TINY and ("(" in text or ")" in text):
        raise NotRepeatable(f"The {name} prompt has brackets, which ComfyUI reads as emphasis.")
    if model != TINY and len(text.encode()) > TOKEN_BYTES * CUT_TOKENS:
        raise NotRepeatable(f"The {name} prompt is too long: the command line reads {CUT_TOKENS} tokens.")
    return text


def _written(graph: Graph, encode: Node) -> str:
    if isinstance(encode["inputs"].get("text"), str):
        return encode["inputs"]["text"]
    tags = _source(graph, encode, "text", "KaleidoPrompt")
    names = tuple(_value(tags, f"name{index + 1}", "") for index in range(_value(tags, "count")))
    return expand_tags(_value(tags, "text"), names, _value(tags, "template")).text


def _models(graph: Graph, references: Node) -> dict[str, Any]:
    """The fields of ``Request`` that name the model's parts."""
    number, _ = _link(references, "model")
    loader = _node(graph, number)
    encoders = [_source(graph, references, name, "CLIPTextEncode") for name in ("positive", "negative")]
    if _link(encoders[0], "clip") != _link(encoders[1], "clip"):
        raise NotRepeatable("The prompts are read by two text encoders.")
    if loader["class_type"] == "KaleidoDemoModel":
        if (_link(encoders[0], "clip"), _link(references, "vae")) != ((number, 1), (number, 2)):
            raise NotRepeatable("The demo model works with another model's text encoder or VAE.")
        return {"model": TINY}
    if loader["class_type"] != "KaleidoLoadModel":
        raise NotRepeatable(f"The model comes through {loader['class_type']}.")
    if _value(loader, "weight_dtype") != "default":
        raise NotRepeatable(f"The weights are loaded as {_value(loader, 'weight_dtype')}.")
    return {
        "model": _value(loader, "model_name"),
        "text_encoder": _value(_source(graph, encoders[0], "clip", "CLIPLoader"), "clip_name"),
        "vae": _value(_source(graph, references, "vae", "VAELoader"), "vae_name"),
    }


def _relative(path: Path, beside: Path) -> str:
    try:
        return Path(os.path.relpath(path, beside)).as_posix()
    except ValueError:  # another drive of Windows
        return path.name
