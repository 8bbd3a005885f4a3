"""Templates fit the nodes: ours by their schemas, stock ones by what a real ComfyUI 0.33 says of them."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from .conftest import ROOT, Pack
from .test_schema import kind_of, option

FOLDER = ROOT / "workflows"
TEMPLATES = sorted(FOLDER.glob("*.json"))
NOTES = ("Note", "MarkdownNote")
WIDGETS = ("COMBO", "INT", "FLOAT", "BOOLEAN", "STRING")

templates = pytest.mark.parametrize("path", TEMPLATES, ids=[path.stem for path in TEMPLATES])


def widgets_of(pack: Pack, node_id: str) -> list[Any]:
    """Our node's widgets as the page orders them: what may be left out comes last; None: what follows a seed."""
    widgets = [socket for socket in pack.schema(node_id).inputs if kind_of(socket) in WIDGETS]
    widgets.sort(key=lambda socket: bool(option(socket, "optional")))
    return [part for w in widgets for part in ([w, None] if option(w, "control_after_generate") else [w])]


def fits(socket: Any, value: Any) -> bool:
    kind = kind_of(socket)
    if kind == "COMBO":
        return value in option(socket, "options") or socket.id == "model_name"
    if kind in ("INT", "FLOAT"):
        return option(socket, "min") <= value <= option(socket, "max")
    return isinstance(value, bool if kind == "BOOLEAN" else str)


@pytest.fixture(scope="module")
def stock(golden) -> dict[str, Any]:
    """Stock nodes: the names of their sockets and outputs, and how many widgets they have."""
    return golden.info("stock_nodes")


def test_there_are_templates_for_every_use():
    names = {path.stem for path in TEMPLATES}
    assert len([name for name in names if name.startswith("kaleido_demo_")]) == 3 and len(names) == 10


@templates
def test_every_template_has_a_small_picture_and_a_line_in_the_table(path: Path):
    with Image.open(path.with_suffix(".jpg")) as picture:
        assert 300 <= picture.width <= 1000
    assert path.with_suffix(".jpg").stat().st_size < 300_000
    assert path.stem in (FOLDER / "README.md").read_text(encoding="utf-8")


@templates
def test_nodes_and_widgets_are_what_the_schemas_say(pack: Pack, stock, path: Path):
    for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]:
        values = node.get("widgets_values", [])
        if node["type"] in pack.classes:
            widgets = widgets_of(pack, node["type"])
            assert len(values) == len(widgets), node["type"]
            for socket, value in zip(widgets, values, strict=True):
                assert socket is None or fits(socket, value), (node["type"], socket.id, value)
        elif node["type"] not in NOTES:
            assert len(values) == stock[node["type"]]["widgets"], node["type"]


@templates
def test_links_join_sockets_that_exist_and_are_of_one_type(pack: Pack, stock, path: Path):
    content = json.loads(path.read_text(encoding="utf-8"))
    nodes = {node["id"]: node for node in content["nodes"]}
    assert len(nodes) == len(content["nodes"])
    for number, source, slot, target, place, kind in content["links"]:
        output, socket = nodes[source]["outputs"][slot], nodes[target]["inputs"][place]
        assert number in output["links"] and socket["link"] == number
        assert output["type"] == kind and kind in (socket["type"], "*")
    used = [link for node in content["nodes"] for socket in node.get("inputs", []) if (link := socket.get("link"))]
    assert sorted(used) == sorted(link[0] for link in content["links"])
    for node in content["nodes"]:
        if node["type"] in NOTES:
            continue
        known = stock.get(node["type"]) or ours(pack, node["type"])
        names = [socket["name"].rstrip("0123456789") for socket in node.get("inputs", [])]
        assert not set(names) - {name.rstrip("0123456789") for name in known["inputs"]}, node["type"]
        assert [socket["type"] for socket in node.get("outputs", [])] == known["outputs"], node["type"]


def ours(pack: Pack, node_id: str) -> dict[str, list[Any]]:
    schema = pack.schema(node_id)
    grown = {"references": "references.image", "masks": "masks.mask"}
    return {
        "inputs": [grown.get(socket.id, socket.id) for socket in schema.inputs],
        "outputs": [kind_of(socket) for socket in schema.outputs],
    }


@templates
def test_nodes_do_not_cover_one_another(path: Path):
    nodes = json.loads(path.read_text(encoding="utf-8"))["nodes"]
    boxes = [(n["type"], *n["pos"], n["pos"][0] + n["size"][0], n["pos"][1] + n["size"][1]) for n in nodes]
    for index, (name, left, top, right, bottom) in enumerate(boxes):
        for other, left2, top2, right2, bottom2 in boxes[index + 1 :]:
            apart = right <= left2 or right2 <= left or bottom + 30 <= top2 or bottom2 + 30 <= top  # 30: the title bar
            assert apart, (name, other)


@templates
def test_large_models_come_with_their_places(path: Path):
    content = json.loads(path.read_text(encoding="utf-8"))
    loaders = [n for n in content["nodes"] if n["type"] in ("KaleidoLoadModel", "CLIPLoader", "VAELoader")]
    loaders += [n for n in content["nodes"] if n["type"] == "LoraLoaderModelOnly"]
    assert bool(loaders) != path.stem.startswith("kaleido_demo_")
    for node in loaders:
        (model,) = node["properties"]["models"]
        assert model["name"] == node["widgets_values"][0] and model["url"].startswith("https://") and model["directory"]
