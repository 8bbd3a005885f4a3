"""ArcFace: faces are set straight before a network says whose they are."""

from pathlib import Path

import numpy as np
import pytest

from kaleido_core.errors import ConfigError
from training.curation.models import arcface, make

cv2 = pytest.importorskip("cv2", reason="needs opencv-python-headless")

# dlib's five points: the corners of one eye, of the other, and the end of the nose.
EYES_AND_NOSE = np.array(arcface.EYES_AND_NOSE)
MARKS = np.array([[34.3, 51.7], [42.3, 51.7], [69.5, 51.5], [77.5, 51.5], [56.0, 71.7]])


@pytest.mark.parametrize("degrees", [0, 25, -40])
def test_eyes_and_nose_of_a_turned_face_come_to_their_places(degrees: int):
    turn = cv2.getRotationMatrix2D((60, 60), degrees, 1.7) + np.array([[0, 0, 90], [0, 0, 70]])
    marks = MARKS @ turn[:, :2].T + turn[:, 2]
    picture = np.zeros((320, 320, 3), np.uint8)
    for number, (x, y) in enumerate([marks[:2].mean(0), marks[2:4].mean(0), marks[4]]):
        cv2.circle(picture, (round(x), round(y)), 5, [255 * (number == channel) for channel in range(3)], -1)
    face = arcface.aligned(picture, marks)
    for channel, place in enumerate(EYES_AND_NOSE):
        rows, columns = np.nonzero(face[..., channel] > 128)
        assert abs(columns.mean() - place[0]) < 1 and abs(rows.mean() - place[1]) < 1


def test_a_network_in_onnx_gives_a_unit_vector_of_a_face(tmp_path: Path):
    vector = arcface.identity(_network(tmp_path / "arcface.onnx"), np.full((112, 112, 3), 200, np.uint8))
    assert vector.shape == (3,) and np.linalg.norm(vector) == pytest.approx(1)


def test_a_missing_file_is_named_with_what_brings_it(tmp_path: Path):
    pytest.importorskip("dlib", reason="needs dlib-bin")
    with pytest.raises(ConfigError, match=r"shape_predictor_5_face_landmarks\.dat is missing"):
        make.faces(f"arcface:{tmp_path}", tmp_path)


def _network(path: Path):
    """The mean of each channel: a network of the same input and output as ArcFace's."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from training.curation.models.files import onnx_session

    helper, number = onnx.helper, onnx.TensorProto.FLOAT
    given = helper.make_tensor_value_info("picture", number, [1, 3, 112, 112])
    told = helper.make_tensor_value_info("vector", number, [1, 3])
    nodes = [
        helper.make_node("GlobalAveragePool", ["picture"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["vector"]),
    ]
    graph = helper.make_graph(nodes, "tiny", [given], [told])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return onnx_session(path, "arcface")
