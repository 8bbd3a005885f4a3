"""A running ComfyUI over HTTP, and what ``test_server.py`` gives to it: graphs and model files."""

import base64
import json
import os
import socket
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode, urlsplit

import pytest
import safetensors.torch
import torch
from torch import Tensor

from kaleido_core import load_dit
from kaleido_core.checkpoints.convert import convert
from kaleido_core.checkpoints.load import TINY, model_path
from kaleido_core.checkpoints.sizes import HOST_TEXT_WIDTH
from kaleido_core.generate import Request, encode_text, load_models

from .test_graph import CFG, NEGATIVE, PROMPT, SEED, SHIFT, SIZE, STEPS

TEXT, BINARY = 1, 2  # kinds of websocket messages
ENDS = ("execution_success", "execution_error", "execution_interrupted")
OURS = "kaleido_test"  # how all names begin that the tests leave on the server
PLACE = f"{OURS}/{uuid.uuid4().hex}"  # new each time: a server does not save again what it remembers to have saved

Node = dict[str, Any]
Graph = dict[str, Node]  # the API form: node id -> class_type and inputs
Link = list[Any]  # node id and number of its output
Sampling = Callable[[Link], Graph]  # from a MODEL to nodes, one of which is called "sampler"


class Server:
    def __init__(self, url: str):
        self.url = url.rstrip("/")
        self.client_id = uuid.uuid4().hex

    @cached_property
    def nodes(self) -> dict[str, Any]:
        return json.loads(self.ask("/object_info"))

    def ask(self, path: str, body: bytes | None = None, kind: str = "application/json") -> bytes:
        request = urllib.request.Request(self.url + path, body, {"Content-Type": kind})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.read()
        except HTTPError as error:
            raise RuntimeError(f"{path}: {error.code} {error.read().decode()[:2000]}") from error

    def upload(self, name: str, png: bytes) -> None:
        """A picture for Load Image."""
        start = f'--X\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'
        self.ask("/upload/image", start.encode() + png + b"\r\n--X--\r\n", "multipart/form-data; boundary=X")

    def view(self, saved: Mapping[str, str]) -> bytes:
        """A file that a node says it saved."""
        return self.ask("/view?" + urlencode({name: saved[name] for name in ("filename", "subfolder", "type")}))

    def require(self, kind: str) -> None:
        if kind not in self.nodes:
            pytest.skip(f"this ComfyUI has no {kind}")

    def queue(self, graph: Graph, **extra: Any) -> str:
        """Start a graph. Inputs that this release wants beyond those given get its defaults."""
        for wanted in graph.values():
            self.require(wanted["class_type"])
        filled = {number: self._fill(wanted) for number, wanted in graph.items()}
        body = {"prompt": filled, "client_id": self.client_id, "extra_data": extra}
        answer = json.loads(self.ask("/prompt", json.dumps(body).encode()))
        if answer["node_errors"]:
            raise RuntimeError(str(answer["node_errors"]))
        return answer["prompt_id"]

    def wait(self, prompt: str, seconds: float = 600) -> dict[str, Any]:
        """The outputs of all nodes, once the prompt is through."""
        for _ in range(int(20 * seconds)):
            done = json.loads(self.ask(f"/history/{prompt}")).get(prompt)
            if done and done["status"]["status_str"] != "success":
                raise RuntimeError(str(done["status"]["messages"][-1]))
            if done:
                return done["outputs"]
            time.sleep(0.05)
        raise TimeoutError(f"prompt {prompt} is not through after {seconds:g} s")

    def run(self, graph: Graph, **extra: Any) -> dict[str, Any]:
        return self.wait(self.queue(graph, **extra))

    def _fill(self, wanted: Node) -> Node:
        required = self.nodes[wanted["class_type"]]["input"].get("required", {})
        defaults = {name: default_of(*spec) for name, spec in required.items()}
        known = {name: value for name, value in defaults.items() if value is not None}
        return node(wanted["class_type"], **known | wanted["inputs"])


def default_of(kind: str | list[Any], options: Mapping[str, Any] = {}) -> Any:
    """What the page puts into a new node's widget; None for a socket."""
    choices = kind if isinstance(kind, list) else options.get("options") if kind == "COMBO" else None
    return options.get("default", choices[0] if choices else options.get("min"))


class Events:
    """What the server tells its page. It neither masks nor splits its messages, and is told nothing."""

    def __init__(self, server: Server):
        place = urlsplit(server.url)
        self.socket = socket.create_connection((place.hostname, place.port or 80), timeout=60)
        self.stream = self.socket.makefile("rb")
        key = base64.b64encode(os.urandom(16)).decode()
        lines = (
            f"GET /ws?clientId={server.client_id} HTTP/1.1", f"Host: {place.netloc}", "Upgrade: websocket",
            "Connection: Upgrade", f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", "", "",
        )  # fmt: skip
        self.socket.sendall("\r\n".join(lines).encode())
        while self.stream.readline().strip():  # the headers of the answer
            pass

    def close(self) -> None:
        self.stream.close()
        self.socket.close()

    def of(self, prompt: str) -> Iterator[tuple[int, bytes]]:
        """Kind and content of all messages up to the end of a prompt."""
        while head := self.stream.read(2):
            length = head[1]
            if length > 125:
                length = int.from_bytes(self.stream.read(2 if length == 126 else 8), "big")
            kind, content = head[0] & 15, self.stream.read(length)
            yield kind, content
            if kind == TEXT and (event := json.loads(content))["type"] in ENDS and event["data"]["prompt_id"] == prompt:
                return


# Graphs

MODEL, VAE, LATENT = ["demo", 0], ["demo", 2], ["references", 3]
CONDITIONS = {"positive": ["references", 1], "negative": ["references", 2]}
OTHER = {"robot": {"class_type": "KaleidoDemoReferences", "inputs": {"picture": "melon"}}}  # another reference
SETTINGS = {"steps": STEPS, "cfg": CFG, **CONDITIONS}


def node(kind: str, **inputs: Any) -> Node:
    return {"class_type": kind, "inputs": inputs}


def kaleido_sampler(model: Link, **more: Any) -> Graph:
    settings = {"preset": "custom", "shift": SHIFT, "seed": SEED, "latent": LATENT, **SETTINGS, **more}
    return {"sampler": node("KaleidoSampler", model=model, **settings)}


def ksampler(model: Link, **more: Any) -> Graph:
    settings = {"sampler_name": "euler", "seed": SEED, "latent_image": LATENT, **SETTINGS, **more}
    return {"sampler": node("KSampler", model=model, **settings)}


def two_stages(model: Link) -> Graph:
    settings = {"model": model, "sampler_name": "euler", "noise_seed": SEED, **SETTINGS}
    halves = (
        {"latent_image": LATENT, "end_at_step": 2, "return_with_leftover_noise": "enable"},
        {"latent_image": ["first", 0], "start_at_step": 2, "add_noise": "disable"},
    )
    first, second = (node("KSamplerAdvanced", **settings, **half) for half in halves)
    return {"first": first, "sampler": second}


def second_pass(model: Link) -> Graph:
    second = ksampler(model, latent_image=["first", 0], denoise=0.5)
    return {"first": kaleido_sampler(model)["sampler"], **second}


def custom_sampling(model: Link) -> Graph:
    parts = {name: [name, 0] for name in ("noise", "guider", "sigmas")}
    return {
        "sigmas": node("KaleidoSigmas", steps=STEPS, shift=SHIFT),
        "noise": node("RandomNoise", noise_seed=SEED),
        "euler": node("KSamplerSelect", sampler_name="euler"),
        "guider": node("CFGGuider", model=model, cfg=CFG, **CONDITIONS),
        "sampler": node("SamplerCustomAdvanced", sampler=["euler", 0], latent_image=LATENT, **parts),
    }


def base_graph(
    sampling: Sampling = kaleido_sampler, before: Sequence[Node] = (), behind: Sequence[Node] = (), **references: Any
) -> Graph:
    """Two references and a prompt, up to a saved latent.

    Patches of the model stand before or behind Kaleido References; ``references`` are inputs of that node.
    """
    nodes = {
        "demo": node("KaleidoDemoModel"),
        "duck": node("KaleidoDemoReferences", picture="duck"),
        "robot": node("KaleidoDemoReferences", picture="robot face"),
        "positive": node("CLIPTextEncode", clip=["demo", 1], text=PROMPT),
        "negative": node("CLIPTextEncode", clip=["demo", 1], text=NEGATIVE),
        "saved": node("SaveLatent", samples=["sampler", 0], filename_prefix=PLACE),
    }
    inputs = {
        "positive": ["positive", 0], "negative": ["negative", 0], "vae": VAE, "size": "custom", "width": SIZE.width,
        "height": SIZE.height, "length": SIZE.frames, "references.image1": ["duck", 0],
        "references.image2": ["robot", 0], **references,
    }  # fmt: skip
    inputs["model"] = _patch(nodes, references.get("model", MODEL), before)
    nodes["references"] = node("KaleidoReferences", **inputs)
    return nodes | sampling(_patch(nodes, ["references", 0], behind))


def _patch(nodes: Graph, model: Link, patches: Sequence[Node]) -> Link:
    for patch in patches:
        number = f"patch{len(nodes)}"
        nodes[number] = node(patch["class_type"], **patch["inputs"], model=model)
        model = [number, 0]
    return model


# Model files


def widen(values: Tensor) -> Tensor:
    return torch.nn.functional.pad(values, (0, HOST_TEXT_WIDTH - values.shape[-1])).contiguous()


def save(state: dict[str, Tensor], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(state, path, {"format": "pt"})


def write_plain(models: Path) -> Path:
    """The embedded model with text as wide as the 14B's, which every release reads, and two texts in files."""
    path = models / "diffusion_models" / f"{OURS}.safetensors"
    state = safetensors.torch.load_file(model_path(TINY, "dit"))
    save(state | {"text_embedding.0.weight": widen(state["text_embedding.0.weight"])}, path)
    texts = widen(encode_text(load_models(Request(prompt=PROMPT)), [PROMPT, NEGATIVE]))
    for name, text in zip(CONDITIONS, texts.split(1), strict=True):
        shard = {"latents": [{"samples": torch.zeros(1)}], "conditioning": [[[text, {}]]]}
        for folder in ("output", "datasets"):  # the latter since 0.33, which looks for the .json there
            place = models.parent / folder / f"{OURS}_{name}"
            place.mkdir(parents=True, exist_ok=True)
            torch.save(shard, place / "shard_0000.pkl")
            (place / "metadata.json").write_text("{}")
    return path


def file_graph(path: Path, kind: str = "UNETLoader", **more: Any) -> Graph:
    """The base graph with a model file; ``kind`` loads it."""
    texts = {name: node("LoadTrainingDataset", folder_name=f"{OURS}_{name}") for name in CONDITIONS}
    loader = node(kind, **{"model_name" if kind == "KaleidoLoadModel" else "unet_name": path.name})
    return base_graph(model=["file", 0], **{name: [name, 1] for name in CONDITIONS}, **more) | texts | {"file": loader}


def write_comfy_quant(plain: Path, path: Path) -> dict[str, Tensor]:
    """Each of these gives back the weights that a reader should find."""
    convert(plain, path, "fp8_scaled", kaleido=True)
    return load_dit(path, dtype=torch.float32).state_dict()


def write_scaled_fp8(plain: Path, path: Path) -> dict[str, Tensor]:
    """As such files were before ComfyUI 0.4."""
    convert(plain, path, "fp8_scaled")
    new = safetensors.torch.load_file(path)
    old = {key.replace(".weight_scale", ".scale_weight"): new[key] for key in new if not key.endswith(".comfy_quant")}
    save({**old, "scaled_fp8": torch.zeros(2, dtype=torch.float8_e4m3fn)}, path)
    return load_dit(path, dtype=torch.float32).state_dict()


def write_gguf(plain: Path, path: Path) -> dict[str, Tensor]:
    gguf = pytest.importorskip("gguf")
    writer, kinds, weights = gguf.GGUFWriter(path, "wan"), gguf.GGMLQuantizationType, {}
    for name, value in safetensors.torch.load_file(plain).items():
        array = value.float().numpy()
        if array.ndim > 4:  # more axes than the format has
            writer.add_array(f"comfy.gguf.orig_shape.{name}", list(array.shape))
            array = array.reshape(len(array), -1)
        kind = kinds.Q8_0 if name.startswith("blocks.") and array.ndim == 2 else kinds.F32
        stored = gguf.quants.quantize(array, kind)
        writer.add_tensor(name, stored, raw_dtype=kind)
        weights[name] = torch.from_numpy(gguf.quants.dequantize(stored, kind)).reshape(value.shape)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    return weights


def lora(models: Path, keys: str, strength: float = 1.0) -> Node:
    """The loader of a LoRA of one layer, in the names that the library ``keys`` writes."""
    prefix, down, up = {
        "peft": ("diffusion_model.blocks.1.self_attn.q", "lora_A", "lora_B"),
        "kohya": ("lora_unet_blocks_1_self_attn_q", "lora_down", "lora_up"),
    }[keys]
    first, second = torch.randn(2, 4, 256, generator=torch.manual_seed(0))
    path = models / "loras" / f"{OURS}_{keys}.safetensors"
    save({f"{prefix}.{down}.weight": first, f"{prefix}.{up}.weight": second.T.contiguous() / 8}, path)
    return node("LoraLoaderModelOnly", lora_name=path.name, strength_model=strength)
