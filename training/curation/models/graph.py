"""Runs a frozen TensorFlow.js graph in torch: the few operations that detectors made for browsers need."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kaleido_core.errors import DataError

SAME = ("U0FNRQ==", "SAME")  # base64, as the files have it
_TYPES = {"float32": np.float32, "int32": np.int32, "uint8": np.uint8, "uint16": np.uint16, "float16": np.float16}

Value = Tensor | Sequence[Tensor]


@dataclass(frozen=True)
class Node:
    """An operation, its inputs ("name" or "name:2" for a third output) and what else it is told."""

    name: str
    op: str
    inputs: tuple[str, ...]
    attributes: Mapping[str, Any]


class Graph:
    """``NAME.json`` with ``NAME.bin`` beside it. Layouts are TensorFlow's: channels last."""

    def __init__(self, path: Path) -> None:
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            self._constants = _weights(told["weightsManifest"][0]["weights"], path.with_suffix(".bin").read_bytes())
            self._nodes = {node.name: node for node in map(_node, told["modelTopology"]["node"])}
            self._outputs = [output["name"] for output in told["signature"]["outputs"].values()]
        except (OSError, ValueError, LookupError) as error:
            raise DataError(f"{path} cannot be read as a graph model ({error}). Fetch the models again.") from error
        self._order = self._sorted()

    @torch.no_grad()
    def __call__(self, picture: Tensor) -> list[Tensor]:
        """The outputs, in the file's order, for its only input."""
        values: dict[str, Value] = dict(self._constants)
        for node in self._order:
            given = [picture] if node.op == "Placeholder" else [_pick(values, name) for name in node.inputs]
            values[node.name] = OPERATIONS[node.op](given, node.attributes)
        return [_pick(values, name) for name in self._outputs]

    def _sorted(self) -> list[Node]:
        """Each node behind its inputs."""
        order: list[Node] = []
        seen = set(self._constants)
        waiting = [_plain(name) for name in self._outputs]
        while waiting:
            name = waiting[-1]
            missing = [] if name in seen else [n for n in map(_plain, self._nodes[name].inputs) if n not in seen]
            if missing:
                waiting += missing
                continue
            waiting.pop()
            if name not in seen:
                seen.add(name)
                order.append(self._nodes[name])
        return order


def _node(told: Mapping[str, Any]) -> Node:
    if told["op"] not in OPERATIONS and told["op"] != "Const":
        raise ValueError(f"operation {told['op']} is unknown")
    return Node(told["name"], told["op"], tuple(told.get("input", ())), told.get("attr", {}))


def _weights(told: Sequence[Mapping[str, Any]], data: bytes) -> dict[str, Tensor]:
    found, place = {}, 0
    for weight in told:
        count = int(np.prod(weight["shape"], dtype=np.int64))
        packed = weight.get("quantization")
        kind = np.dtype(_TYPES[packed["dtype"] if packed else weight["dtype"]])
        values = np.frombuffer(data, kind, count, place)
        place += count * kind.itemsize
        if packed and "scale" in packed:
            values = values * np.float32(packed["scale"]) + np.float32(packed["min"])
        values = values.astype(_TYPES[weight["dtype"]]).reshape(weight["shape"])
        found[weight["name"]] = torch.from_numpy(values)
    return found


def _plain(name: str) -> str:
    return name.lstrip("^").partition(":")[0]


def _pick(values: Mapping[str, Value], name: str) -> Tensor:
    value, place = values[_plain(name)], name.partition(":")[2]
    return value if isinstance(value, Tensor) else value[int(place or 0)]


def _pad_same(picture: Tensor, kernel: int, stride: int, value: float) -> Tensor:
    """As TensorFlow does it: the odd pixel goes behind. ``[B C H W]``"""

    def total(side: int) -> int:
        return max((-(-side // stride) - 1) * stride + kernel - side, 0)

    down, across = (total(side) for side in picture.shape[-2:])
    return F.pad(picture, (across // 2, across - across // 2, down // 2, down - down // 2), value=value)


def _convolution(given: Sequence[Tensor], told: Mapping[str, Any]) -> Tensor:
    picture, weight = given[0].permute(0, 3, 1, 2), given[1].permute(3, 2, 0, 1).contiguous()
    stride = int(told["strides"]["list"]["i"][1])
    if told["padding"]["s"] in SAME:
        picture = _pad_same(picture, weight.shape[-1], stride, 0.0)
    return F.conv2d(picture, weight, None, stride, groups=picture.shape[1] // weight.shape[1]).permute(0, 2, 3, 1)


def _max_pool(given: Sequence[Tensor], told: Mapping[str, Any]) -> Tensor:
    kernel, stride = (int(told[key]["list"]["i"][1]) for key in ("ksize", "strides"))
    picture = given[0].permute(0, 3, 1, 2)
    if told["padding"]["s"] in SAME:
        picture = _pad_same(picture, kernel, stride, float("-inf"))
    return F.max_pool2d(picture, kernel, stride).permute(0, 2, 3, 1)


def _pad(given: Sequence[Tensor], _: Mapping[str, Any]) -> Tensor:
    sides = [side for pair in reversed(given[1].tolist()) for side in pair]
    return F.pad(given[0], sides, value=float(given[2]) if len(given) > 2 else 0.0)


def _resize(given: Sequence[Tensor], told: Mapping[str, Any]) -> Tensor:
    aligned = bool(told.get("align_corners", {}).get("b", False))
    picture = given[0].permute(0, 3, 1, 2)
    return F.interpolate(picture, given[1].tolist(), mode="bilinear", align_corners=aligned).permute(0, 2, 3, 1)


def _sparse_to_dense(given: Sequence[Tensor], _: Mapping[str, Any]) -> Tensor:
    places, shape, values, default = given
    dense = torch.full(shape.flatten().tolist(), default.item() if default.numel() else 0, dtype=values.dtype)
    if places.numel():
        dense[tuple(places.long().T)] = values.flatten()
    return dense


OPERATIONS: Mapping[str, Callable[[Sequence[Tensor], Mapping[str, Any]], Value]] = {
    "Placeholder": lambda given, _: given[0],
    "Identity": lambda given, _: given[0],
    "Transpose": lambda given, _: given[0].permute(*given[1].tolist()),
    "Add": lambda given, _: given[0] + given[1],
    "AddV2": lambda given, _: given[0] + given[1],
    "Pad": _pad,
    "PadV2": _pad,
    "LeakyRelu": lambda given, told: F.leaky_relu(given[0], told.get("alpha", {}).get("f", 0.2)),
    "Sigmoid": lambda given, _: given[0].sigmoid(),
    "ConcatV2": lambda given, _: torch.cat(list(given[:-1]), int(given[-1])),
    "Reshape": lambda given, _: given[0].reshape(given[1].tolist()),
    "SplitV": lambda given, _: torch.split(given[0], given[1].tolist(), int(given[2])),
    "SparseToDense": _sparse_to_dense,
    "ResizeBilinear": _resize,
    "MaxPool": _max_pool,
    "Conv2D": _convolution,
}
