"""The models of the local settings: what is done before and after their networks."""

from pathlib import Path

import numpy as np
import pytest
import torch

from kaleido_core.errors import ConfigError
from training.curation.models import centerface, nanodet
from training.curation.models.centerface import Seen
from training.curation.models.conse import spelt_out
from training.curation.models.efficientnet import FILE, GREY, EfficientNet, EfficientNetLite, on_grey
from training.curation.models.kinds import Found
from training.curation.models.telea import Telea
from training.curation.models.template import Template
from training.curation.models.u2netp import U2Netp

pytest.importorskip("cv2", reason="needs opencv-python-headless")

PICTURE = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)


def test_nanodets_distances_reach_from_the_middle_of_a_cell_to_its_sides():
    sides = torch.full((16, 4 * nanodet.BINS), -50.0)  # a grid of 4 x 4
    for side in range(4):
        sides[:, side * nanodet.BINS + 1] = 50.0  # a distance of one cell, surely
    boxes = nanodet._boxes(sides)
    assert boxes[5].tolist() == pytest.approx([0.125, 0.125, 0.625, 0.625])  # the cell in column 1, row 1


def test_boxes_of_a_whole_picture_lie_in_the_picture_and_not_in_its_square(tmp_path: Path, monkeypatch):
    seen = []

    def find(self, picture, words=()):
        seen.append(picture.shape)
        return [Found("dog", (0.0, 5.0, 40.0, 30.0), 0.5)]

    monkeypatch.setattr(nanodet.NanoDet, "__init__", lambda self, folder: None)
    monkeypatch.setattr(nanodet.NanoDet, "find", find)
    (found,) = nanodet.NanoDetWhole(tmp_path).find(PICTURE)
    assert seen == [(80, 80, 3)] and found.box == (0.0, 0.0, 40.0, 20.0)  # ten rows of grey above


def test_two_boxes_of_one_label_on_one_thing_are_one():
    box, beside = (0.0, 0.0, 10.0, 10.0), (1.0, 0.0, 11.0, 10.0)
    found = [Found("dog", box, 0.5), Found("dog", beside, 0.9), Found("ball", box, 0.4)]
    assert nanodet.without_repeats(found) == [found[1], found[2]]


def test_a_face_lies_where_its_cell_and_its_place_in_it_say():
    sure = np.zeros((8, 8), np.float32)
    sure[2, 3] = 0.9
    sizes, places = np.zeros((2, 8, 8)), np.zeros((2, 8, 8))
    sizes[:, 2, 3] = np.log(4), np.log(2)  # 16 rows, 8 columns
    places[:, 2, 3] = 0.5, 0.0
    (seen,) = centerface.decode(sure, sizes, places, right=2.0, down=1.0)
    assert seen.box == pytest.approx((20.0, 4.0, 36.0, 20.0)) and seen.score == pytest.approx(0.9)


def test_a_face_that_is_found_twice_is_told_once():
    twice = [Seen((0, 0, 10, 12), 0.6), Seen((1, 0, 11, 12), 0.8), Seen((50, 0, 60, 12), 0.7)]
    assert centerface.without_repeats(twice) == [twice[1], twice[2]]


def test_a_subject_lies_alone_on_grey_whatever_its_shape():
    mask = np.zeros(PICTURE.shape[:2], np.uint8)
    mask[20:40, 10:70] = 255
    square = on_grey(PICTURE, mask)
    assert square.shape == (224, 224, 3) and (square[:70] == GREY).all() and (square[-70:] == GREY).all()


def test_what_surrounds_a_subject_is_no_part_of_its_vector(tmp_path: Path):
    torch.manual_seed(0)
    weights = EfficientNetLite().state_dict()
    for name in weights:
        if name.endswith("running_var"):
            weights[name].fill_(0.1)  # random convolutions shrink what they see; this keeps it alive
    torch.save(weights, tmp_path / FILE)
    embedder, mask = EfficientNet(tmp_path), np.zeros(PICTURE.shape[:2], np.uint8)
    mask[10:50, 20:60] = 255
    elsewhere = np.where(mask[..., None] > 0, PICTURE, 255 - PICTURE)
    one, other = embedder.embed(PICTURE, mask), embedder.embed(elsewhere, mask)
    assert np.linalg.norm(one) == pytest.approx(1, abs=1e-5) and one @ other == pytest.approx(1, abs=1e-5)
    assert one @ embedder.embed(PICTURE) < 0.999
    assert embedder.classes(PICTURE).shape == (1000,)


def test_a_mask_has_the_pictures_size_and_stays_in_the_box_and_its_margin(tmp_path: Path):
    _network(tmp_path / "u2netp.onnx")
    mask = U2Netp(tmp_path).mask(PICTURE, (20.0, 10.0, 60.0, 50.0))
    assert mask.shape == PICTURE.shape[:2] and mask.dtype == np.uint8
    outside = np.ones(mask.shape, dtype=bool)
    outside[6:54, 16:64] = False  # 8 % of 40 pixels is 3.2
    assert mask.max() > 200 and not mask[outside].any()


def test_telea_changes_only_the_hole():
    mask = np.zeros(PICTURE.shape[:2], np.uint8)
    mask[20:24, 30:34] = 255
    filled = Telea().fill(PICTURE, mask)
    assert np.array_equal(filled[mask == 0], PICTURE[mask == 0]) and not np.array_equal(filled, PICTURE)


def test_a_template_names_only_what_most_frames_surely_show():
    class Planted:
        def find(self, picture, words=()):
            rare = [Found("cat", (0, 0, 1, 1), 0.9)] if picture[0, 0, 0] == 1 else []
            return [Found("dog", (0, 0, 1, 1), 0.9), Found("ball", (0, 0, 1, 1), 0.3), *rare]

    frames = [np.full((4, 4, 3), value, np.uint8) for value in (1, 100, 100)]
    caption, words = Template(Planted).caption(frames)
    assert caption == "A dog in the dark." and words == ("dog",)


def test_classes_are_spelt_out_by_family_and_clothes_mean_persons():
    assert spelt_out(285, "Egyptian Mau") == "cat, Egyptian Mau"
    assert spelt_out(578, "gown") == "a person with gown" and spelt_out(504, "coffee mug") == "coffee mug"


def test_an_older_rapidocr_is_refused_with_a_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from training.curation.models import rapidocr

    monkeypatch.setattr(rapidocr, "load", lambda *_: None)
    monkeypatch.setattr(rapidocr, "version", lambda _: "1.2.3")
    with pytest.raises(ConfigError, match=r"1\.2\.3 is installed.*Python 3\.12"):
        rapidocr.RapidOCR(tmp_path)


def test_text_that_can_be_read_is_found_where_it_is(tmp_path: Path):
    pytest.importorskip("rapidocr_onnxruntime", reason="needs rapidocr-onnxruntime")
    import cv2

    from training.curation.models.rapidocr import RapidOCR

    picture = np.full((200, 400, 3), 230, np.uint8)
    cv2.putText(picture, "HELLO", (60, 120), cv2.FONT_HERSHEY_SIMPLEX, 2.5, (20, 20, 20), 5)
    finder = RapidOCR(tmp_path)
    (line,) = finder.text(picture)
    assert line.label == "HELLO" and 40 < line.box[0] < 80 and 110 < line.box[3] < 140
    assert finder.text(np.full((200, 400, 3), 230, np.uint8)) == []


def _network(path: Path) -> None:
    """The mean of the channels: a network of the same input and output as U2-Netp's."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, number = onnx.helper, onnx.TensorProto.FLOAT
    given = helper.make_tensor_value_info("picture", number, [1, 3, 320, 320])
    told = helper.make_tensor_value_info("mask", number, [1, 1, 320, 320])
    axes = helper.make_tensor("axes", onnx.TensorProto.INT64, [1], [1])
    graph = helper.make_graph([helper.make_node("ReduceMean", ["picture", "axes"], ["mask"])], "tiny", [given], [told],
                              [axes])  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
