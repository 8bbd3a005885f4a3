"""What a ComfyUI graph did, as the record that ``kaleido_core generate --replay`` reads.

Only graphs that the command line can repeat have one: Kaleido's own nodes, text, images and stock loaders, no LoRA.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import ExifTags, Image

from ..kaleido_core.checkpoints.load import TINY, load_tokenizer
from ..kaleido_core.errors import KaleidoError
from ..kaleido_core.request import Request
from ..kaleido_core.request_files import VERSION, Record, ReferenceFile, file_sha256
from ..kaleido_core.shapes import VideoSize
from ..kaleido_core.text.prompt_tags import expand_tags
from ..kaleido_core.text.tokenizer import Tokenizer, clean_text
from . import comfy_adapter as host
from .models import PICTURES
from .prompt import NAMES, names_of
from .references import SIZES, SOCKETS
from .sampling import PRESETS

Graph = Mapping[str, Mapping[str, Any]]  # the API prompt: node id -> class_type and inputs
Node = Mapping[str, Any]
Link = tuple[str, int]  # a node's id and the number of its output

MODEL_WIDGETS = {"KaleidoLoadModel": "model_name", "UNETLoader": "unet_name"}
READ_ALIKE = ("RGB", "RGBA", "P")  # modes of a PNG that ComfyUI's decoder and the command line's read to the bit


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
    if _value(references, "batch_size") != 1 or _value(references, "fit") != "letterbox":
        raise NotRepeatable("Batches and crops are not known to the command line.")
    if _connected(references, "masks.mask"):
        raise NotRepeatable("Masks are not known to the command line.")
    height, width = _chosen(references, "size", SIZES, ("height", "width"))
    size = VideoSize(_value(references, "length"), height, width)
    pictures = [_image(graph, references, name) for name in _connected(references, "references.image")]
    sampler = {**sampler, "inputs": {"reference_cfg": 1.0, **sampler["inputs"]}}  # older graphs have none
    steps, cfg, shift, reference_cfg = _chosen(sampler, "preset", PRESETS, ("steps", "cfg", "shift", "reference_cfg"))
    models = _models(graph, references)
    prompt, negative = (_text(graph, references, name) for name in ("positive", "negative"))
    request = Request(
        prompt=prompt,
        negative=negative,
        references=tuple(_named(path, beside) for path in pictures),
        height=size.height,
        width=size.width,
        frames=size.frames,
        steps=steps,
        cfg=cfg,
        reference_cfg=reference_cfg,
        shift=shift,
        seed=_value(sampler, "seed"),
        fps=fps,
        allow_extra_references=_value(references, "allow_more"),
        **models,
    )
    files = tuple(ReferenceFile(_named(path, beside), file_sha256(path)) for path in pictures)
    return Record(VERSION, torch.__version__, "ComfyUI", request, files, latent_sha256="")


def _node(graph: Graph, number: str) -> Node:
    if number not in graph:
        raise NotRepeatable(f"Node {number} is not in the graph.")
    return graph[number]


def _value(node: Node, name: str) -> Any:
    """A widget's value."""
    value = node["inputs"].get(name)
    if isinstance(value, list) or value is None:
        raise NotRepeatable(f"{name} of {node['class_type']} {'comes from another node' if value else 'is missing'}.")
    return value


def _chosen(node: Node, choice: str, table: Mapping[str, tuple[Any, ...]], own: tuple[str, ...]) -> tuple[Any, ...]:
    """What a choice by name means, or the widgets that "custom" looks at."""
    name = _value(node, choice)
    return table[name] if name in table else tuple(_value(node, widget) for widget in own)


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
        plain = picture.format == "PNG" and picture.mode in READ_ALIKE and getattr(picture, "n_frames", 1) == 1
        if not plain or picture.getexif().get(ExifTags.Base.Orientation, 1) not in (0, 1):
            raise NotRepeatable(
                f"{path.name} is decoded otherwise on the command line; save it as an 8-bit colour PNG."
            )
    return path


def _text(graph: Graph, references: Node, name: str) -> str:
    """What the text encoder reads."""
    encode = _source(graph, references, name, "CLIPTextEncode")
    text = _written(graph, encode)
    loader = _node(graph, _link(encode, "clip")[0])
    if loader["class_type"] == "CLIPLoader":
        _check_read_alike(text, name, load_tokenizer(host.model_file(_value(loader, "clip_name"), "text_encoders")))
    return text


def _check_read_alike(text: str, name: str, tokenizer: Tokenizer) -> None:
    """The host's encoder weighs words in brackets, knows embeddings, cleans nothing and has no end."""
    if any(mark in text for mark in ("(", ")", "embedding:")):
        raise NotRepeatable(f"The {name} prompt has brackets or an embedding, which mean something in ComfyUI only.")
    tokens = tokenizer.processor.encode(text)
    if tokens != tokenizer.processor.encode(clean_text(text)):
        raise NotRepeatable(f"The {name} prompt has curly quotes or the like, which the command line makes plain.")
    if len(tokens) >= tokenizer.length:
        raise NotRepeatable(f"The {name} prompt is too long: the command line reads {tokenizer.length} tokens.")


def _written(graph: Graph, encode: Node) -> str:
    if isinstance(encode["inputs"].get("text"), str):
        return encode["inputs"]["text"]
    tags = _source(graph, encode, "text", "KaleidoPrompt")
    given = tuple(_value(tags, name) if name in tags["inputs"] else "" for name in NAMES)
    return expand_tags(_value(tags, "text"), names_of(given, _value(tags, "count")), _value(tags, "template")).text


def _models(graph: Graph, references: Node) -> dict[str, Any]:
    """The fields of ``Request`` that name the model's parts."""
    number, _ = _link(references, "model")
    while (loader := _node(graph, number))["class_type"] == "KaleidoApply":  # once more, which changes nothing
        number, _ = _link(loader, "model")
    encoders = [_source(graph, references, name, "CLIPTextEncode") for name in ("positive", "negative")]
    if _link(encoders[0], "clip") != _link(encoders[1], "clip"):
        raise NotRepeatable("The prompts are read by two text encoders.")
    if loader["class_type"] == "KaleidoDemoModel":
        if (_link(encoders[0], "clip"), _link(references, "vae")) != ((number, 1), (number, 2)):
            raise NotRepeatable("The demo model works with another model's text encoder or VAE.")
        return {"model": TINY}
    if loader["class_type"] not in MODEL_WIDGETS:
        raise NotRepeatable(f"The model comes through {loader['class_type']}.")
    if _value(loader, "weight_dtype") != "default":
        raise NotRepeatable(f"The weights are loaded as {_value(loader, 'weight_dtype')}.")
    return {
        "model": _value(loader, MODEL_WIDGETS[loader["class_type"]]),
        "text_encoder": _value(_source(graph, encoders[0], "clip", "CLIPLoader"), "clip_name"),
        "vae": _value(_source(graph, references, "vae", "VAELoader"), "vae_name"),
    }


def _named(path: Path, beside: Path) -> str:
    """Relative to the clip inside of the host's folder; elsewhere by name, as folders are nobody's business."""
    path, beside, base = path.resolve(), beside.resolve(), host.base_folder().resolve()
    if path in PICTURES.values() or not (path.is_relative_to(base) and beside.is_relative_to(base)):
        return path.name
    return Path(os.path.relpath(path, beside)).as_posix()
