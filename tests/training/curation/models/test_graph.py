"""TensorFlow.js graphs, run by torch as TensorFlow would run them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from kaleido_core.errors import DataError
from training.curation.models.graph import OPERATIONS, Graph

WEIGHTS = {"kernel": ([3, 3, 1, 2], np.arange(18)), "axis": ([], np.array(3)), "sizes": ([2], np.array([1, 1]))}


def _write(folder: Path, op: str = "Conv2D", name: str = "g.json") -> Path:
    """A picture, convolved with stride 2 and split into its two channels, the second one of them told."""
    stride = {"list": {"i": ["1", "2", "2", "1"]}}
    nodes = [
        {"name": "picture", "op": "Placeholder"},
        {"name": "told", "op": "Identity", "input": ["parts:1"]},
        {"name": "parts", "op": "SplitV", "input": ["seen", "sizes", "axis"]},
        {"name": "seen", "op": op, "input": ["picture", "kernel"],
         "attr": {"strides": stride, "padding": {"s": "U0FNRQ=="}}},
        *({"name": key, "op": "Const"} for key in WEIGHTS),
    ]  # fmt: skip
    kinds = {"kernel": "float32", "axis": "int32", "sizes": "int32"}
    weights = [{"name": key, "shape": shape, "dtype": kinds[key]} for key, (shape, _) in WEIGHTS.items()]
    told = {
        "modelTopology": {"node": nodes},
        "weightsManifest": [{"weights": weights}],
        "signature": {"outputs": {"told": {"name": "told:0"}}},
    }
    path = folder / name
    path.write_text(json.dumps(told))
    path.with_suffix(".bin").write_bytes(b"".join(v.astype(kinds[k]).tobytes() for k, (_, v) in WEIGHTS.items()))
    return path


def test_nodes_run_behind_their_inputs_in_whatever_order_they_are_written(tmp_path: Path):
    (told,) = Graph(_write(tmp_path))(torch.ones(1, 4, 4, 1))
    assert told.shape == (1, 2, 2, 1)


def test_an_even_picture_is_padded_behind_as_tensorflow_does_it(tmp_path: Path):
    (told,) = Graph(_write(tmp_path))(torch.ones(1, 4, 4, 1))
    kernel = np.arange(18, dtype=np.float32).reshape(3, 3, 2)[..., 1]
    # With stride 2 over 4 pixels one row is missing: it is below and to the right, so the first window is whole.
    assert told[0, 0, 0, 0] == kernel.sum() and told[0, 1, 1, 0] == kernel[:2, :2].sum()


def test_packed_weights_are_widened(tmp_path: Path):
    path = _write(tmp_path)
    told = json.loads(path.read_text())
    weight = told["weightsManifest"][0]["weights"][0]
    weight["quantization"] = {"dtype": "uint8", "scale": 0.5, "min": 1.0}
    path.write_text(json.dumps(told))
    rest = path.with_suffix(".bin").read_bytes()[18 * 4 :]
    path.with_suffix(".bin").write_bytes(np.arange(18, dtype=np.uint8).tobytes() + rest)
    (seen,) = Graph(path)(torch.ones(1, 4, 4, 1))
    assert seen[0, 0, 0, 0] == (np.arange(18).reshape(3, 3, 2)[..., 1] * 0.5 + 1).sum()


def test_max_pooling_looks_only_at_the_picture():
    told = {"ksize": {"list": {"i": [1, 3, 3, 1]}}, "strides": {"list": {"i": [1, 2, 2, 1]}}, "padding": {"s": "SAME"}}
    pooled = OPERATIONS["MaxPool"]([torch.full((1, 4, 4, 1), -5.0)], told)
    assert isinstance(pooled, torch.Tensor) and (pooled == -5).all()


@pytest.mark.parametrize("damage", ["unknown operation", "no weights", "no json"])
def test_a_graph_that_cannot_run_is_refused_when_it_is_read(damage: str, tmp_path: Path):
    path = _write(tmp_path, op="Erf" if damage == "unknown operation" else "Conv2D")
    if damage == "no weights":
        path.with_suffix(".bin").unlink()
    if damage == "no json":
        path.write_text("{")
    with pytest.raises(DataError, match=r"g\.json cannot be read"):
        Graph(path)
