"""What users and saved workflows rely on: ids, texts, ranges."""

import json
import re
import subprocess
import sys
from typing import Any

import pytest

from .conftest import COMFYUI, DOUBLES, ROOT, Pack

# Never change one of these: workflows that people saved and shared hold them.
IDS = {
    "KaleidoLoadModel": ["model_name", "weight_dtype"],
    "KaleidoDemoModel": [],
    "KaleidoDemoReferences": ["picture"],
    "KaleidoApply": ["model"],
    "KaleidoAttention": ["model", "kernel"],
    "KaleidoReferences": [
        "model", "positive", "negative", "vae", "size", "width", "height", "length", "batch_size",
        "references", "masks", "role1", "role2", "role3", "fit", "mask_marks", "allow_more",
    ],
    "KaleidoPrompt": ["text", "count", "name1", "name2", "name3", "template"],
    "KaleidoSigmas": ["steps", "shift"],
    "KaleidoSampler": [
        "model", "positive", "negative", "latent", "seed", "preset", "steps", "cfg", "shift", "reference_cfg",
    ],
    "KaleidoSaveVideo": ["images", "fps", "format", "quality", "filename_prefix"],
    "KaleidoPlan": [
        "model", "weights", "width", "height", "length", "references", "steps", "guidance", "vram", "ram",
        "reference_cfg",
    ],
}  # fmt: skip
TAKEN = ("Kaleido Link", "Kaleido Director", "Kaleido Character", "Kaleido Visuals")  # another pack's

# Everything that a running ComfyUI has already is imported first.
IMPORT = """
import asyncio, importlib.util, socket, sys, time
root, doubles = sys.argv[1:]
sys.path[:] = [doubles, *sys.path, root]
import comfy.sample, comfy.sd, numpy, PIL.Image, safetensors, torch
def forbidden(*a, **o): raise AssertionError("touched")
socket.socket.connect = torch.cuda._lazy_init = forbidden
place = {"submodule_search_locations": [root]}
spec = importlib.util.spec_from_file_location("pack", root + "/__init__.py", **place)
module = sys.modules["pack"] = importlib.util.module_from_spec(spec)
start = time.process_time()
spec.loader.exec_module(module)
asyncio.run(module.comfy_entrypoint())
print(time.process_time() - start)
"""


def option(socket: Any, name: str) -> Any:
    return (
        socket.options.get(name)
        if hasattr(socket, "options") and isinstance(socket.options, dict)
        else getattr(socket, name, None)
    )


def kind_of(socket: Any) -> str:
    """INT, IMAGE, ...: as the page knows it."""
    return socket.get_io_type()


def test_ids_are_frozen(pack: Pack):
    assert {id: [socket.id for socket in pack.schema(id).inputs] for id in pack.classes} == IDS


@pytest.mark.parametrize("node_id", IDS)
def test_every_node_and_socket_explains_itself(pack: Pack, node_id: str):
    schema = pack.schema(node_id)
    assert schema.display_name.startswith("Kaleido ") and schema.display_name not in TAKEN
    assert schema.category == "Kaleido" and len(schema.description) > 30
    for socket in (*schema.inputs, *schema.outputs):
        assert option(socket, "tooltip"), socket.id
    for socket in schema.inputs:
        if kind_of(socket) in ("INT", "FLOAT"):
            low, high, default = (option(socket, name) for name in ("min", "max", "default"))
            assert low is not None and high is not None and low <= default <= high, socket.id


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("node_id", IDS)
def test_every_text_stands_in_the_locales(pack: Pack, node_id: str, language: str):
    text = (ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8")
    entry = json.loads(text.replace("{'@'}", "@"))[node_id]  # a bare @ would be a reference to another text
    schema = pack.schema(node_id)
    grown = re.compile(r"(references|masks)_\w+")  # each socket of a growing input has its own entry
    assert [name for name in entry["inputs"] if not grown.fullmatch(name)] == [socket.id for socket in schema.inputs]
    assert list(entry.get("outputs", {})) == [str(index) for index in range(len(schema.outputs))]
    if language == "en":
        assert (entry["display_name"], entry["description"]) == (schema.display_name, schema.description)
        for socket in schema.inputs:
            tooltip = option(socket, "tooltip")
            assert entry["inputs"][socket.id].get("tooltip", "@" in tooltip and tooltip) == tooltip


@pytest.mark.parametrize("node_id", IDS)
def test_every_node_has_a_help_page_in_both_languages_that_names_its_inputs(pack: Pack, node_id: str):
    docs = ROOT / "nodes/web/docs"
    for page in (docs / f"{node_id}.md", docs / node_id / "zh.md"):
        text = page.read_text(encoding="utf-8")
        assert not [socket.id for socket in pack.schema(node_id).inputs if socket.id.rstrip("123") not in text]


def test_the_pack_registers_no_v1_nodes_beside(pack: Pack):
    source = (ROOT / "__init__.py").read_text(encoding="utf-8")
    assert "NODE_CLASS_MAPPINGS" not in source and (ROOT / pack.web_directory / "docs").is_dir()


def test_only_the_adapter_touches_comfy():
    inside = re.compile(
        r"^\s*(?:from|import) (comfy(?!_api)|folder_paths|server|nodes|node_helpers|latent_preview)", re.M
    )
    guilty = [p.name for p in (ROOT / "nodes").glob("*.py") if inside.search(p.read_text(encoding="utf-8"))]
    assert guilty == ["comfy_adapter.py"]


def test_an_older_host_never_hears_a_keyword_it_lacks(pack: Pack):
    schema = pack.adapter.node_schema(node_id="X", display_name="Kaleido X", from_the_future=True)
    assert schema.node_id == "X" and not hasattr(schema, "from_the_future")


@pytest.mark.skipif(bool(COMFYUI), reason="measured on the doubles")
def test_importing_the_pack_is_quick_and_touches_neither_network_nor_cuda():
    times = []
    for _ in range(3):
        command = [sys.executable, "-c", IMPORT, str(ROOT), str(DOUBLES)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
        assert done.returncode == 0, done.stderr
        times.append(float(done.stdout))
    assert min(times) < 0.3
