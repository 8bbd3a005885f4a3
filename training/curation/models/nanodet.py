"""NanoDet: 80 things of everyday life, in a seventh of a second on one core."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..boxes import clipped, moved, overlap
from ..packages import load
from .files import need
from .graph import Graph
from .kinds import Found, Pixels

SIDE = 416
GREY = 114  # around a whole picture
LEAST = 0.2  # score of what is told
SAME_THING = 0.5  # overlap of two boxes of one label
BINS = 11  # a side's distance is a mean over this many
MEAN, SPREAD = (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)  # blue, green, red
LABELS = tuple(
    """person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,parking meter,
bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,tie,suitcase,frisbee,skis,
snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,wine glass,cup,fork,
knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,potted plant,bed,
dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,refrigerator,book,clock,
vase,scissors,teddy bear,hair drier,toothbrush""".replace("\n", "").split(",")
)


class NanoDet:
    """A ``Detector`` of fixed classes: it tells all it finds, whatever words are asked for. It sees a picture stretched
    to a square, which makes persons of wide films fat; ``NanoDetWhole`` does not."""

    def __init__(self, folder: Path) -> None:
        self._graph = Graph(need(folder / "nanodet.json", "nanodet"))

    def find(self, picture: Pixels, words: Sequence[str] = ()) -> list[Found]:
        height, width = picture.shape[:2]
        outputs = self._graph(_prepare(picture))
        scores = {output.shape[1]: output[0] for output in outputs if output.shape[2] == len(LABELS)}
        sides = {output.shape[1]: output[0] for output in outputs if output.shape[2] == 4 * BINS}
        found = []
        for cells, table in scores.items():
            boxes = _boxes(sides[cells]) * torch.tensor([width, height] * 2)
            best, label = table.max(1)
            for cell in torch.nonzero(best > LEAST).flatten().tolist():
                left, top, right, bottom = boxes[cell].tolist()
                found.append(Found(LABELS[int(label[cell])], (left, top, right, bottom), float(best[cell])))
        return without_repeats(found)


class NanoDetWhole(NanoDet):
    """The same in true proportions: the picture in the middle of a grey square."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder.parent / "nanodet" if folder.name == "nanodet-whole" else folder)

    def find(self, picture: Pixels, words: Sequence[str] = ()) -> list[Found]:
        height, width = picture.shape[:2]
        side = max(height, width)
        right, down = (side - width) // 2, (side - height) // 2
        square = np.full((side, side, 3), GREY, np.uint8)
        square[down : down + height, right : right + width] = picture
        boxes = [replace(one, box=moved(one.box, -right, -down)) for one in super().find(square, words)]
        return [replace(one, box=clipped(one.box, height, width)) for one in boxes]


def _prepare(picture: Pixels) -> Tensor:
    """``[1 3 416 416]``, stretched; blue first."""
    cv2 = load("cv2", "opencv-python-headless")
    way = cv2.INTER_AREA if picture.shape[1] > SIDE else cv2.INTER_LINEAR
    small = cv2.resize(picture, (SIDE, SIDE), interpolation=way)[..., ::-1].astype(np.float32)
    small = (small - np.array(MEAN, np.float32)) / np.array(SPREAD, np.float32)
    return torch.from_numpy(np.ascontiguousarray(small.transpose(2, 0, 1)[None]))


def _boxes(sides: Tensor) -> Tensor:
    """Left, top, right, bottom in shares of the picture, from distances in bins ``[cells 44]``."""
    cells = len(sides)
    grid = round(cells**0.5)
    away = (sides.view(cells, 4, BINS).softmax(2) * torch.arange(BINS)).sum(2) / grid
    place = torch.arange(cells)
    middle = torch.stack([place % grid + 0.5, torch.div(place, grid, rounding_mode="floor") + 0.5], 1) / grid
    return torch.cat([middle - away[:, :2], middle + away[:, 2:]], 1).clamp(0, 1)


def without_repeats(found: Sequence[Found]) -> list[Found]:
    """The best first; one box for each thing."""
    kept: list[Found] = []
    for one in sorted(found, key=lambda one: -one.score):
        if all(one.label != other.label or overlap(one.box, other.box) < SAME_THING for other in kept):
            kept.append(one)
    return kept
