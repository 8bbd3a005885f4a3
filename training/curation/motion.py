"""How a clip moves: optical flow between frames, split into what the camera does and what is left."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .masks import cv2
from .models.kinds import Pixels

GRID = 8  # pixels between the points that the camera's motion is fitted to
STILL = 0.6  # mean difference of two frames, of 255, below which nothing moved
RIM = 4  # pixels beside the border that are not compared
UNLIKE = 10  # difference of blurred frames, of 255, that is no noise
STEADY = 0.12  # of the frames' steepest edges, that an edge keeps in all frames,
SAME = 0.95  # and of its mean steepness, what is left when directions cancel
TRAVEL = 40.0  # pixels of the camera's way after which everything but a mark has moved
PANS = 0.5  # pixels between frames from which a camera moves,
VIEWS = 4  # and the frames in which it must


@dataclass(frozen=True)
class Motion:
    """Means over pairs of frames, in pixels of a picture of 448 columns: all motion, the camera's, and what is left
    of the liveliest twentieth of the picture; the share of the picture that looks otherwise than the camera explains;
    and the share of pairs in which nothing moves at all. ``mark`` is what ``steady_edges`` tells; None where the camera
    goes too short a way."""

    all: float
    camera: float
    own: float
    free: float
    still: float
    mark: float | None = None


def measure_motion(grey: Sequence[Pixels]) -> Motion:
    """``grey`` are frames ``[H W]``, eight a second."""
    flow = cv2().DISOpticalFlow_create(cv2().DISOPTICAL_FLOW_PRESET_FAST)
    rows, cameras = [], []
    for one, other in zip(grey, grey[1:], strict=False):
        moved = flow.calc(one, other, None)
        cameras.append(camera_flow(moved))
        lively = np.quantile(_length(moved - cameras[-1]), 0.95)
        still = float(np.abs(one.astype(np.int16) - other).mean()) < STILL
        way = _length(moved).mean(), _length(cameras[-1]).mean()
        rows.append((*way, lively, free(one, other, cameras[-1]), still))
    if not rows:
        return Motion(0.0, 0.0, 0.0, 0.0, 1.0)
    table = np.array(rows, np.float64)
    every, camera, apart, still = (float(value) for value in table[:, (0, 1, 3, 4)].mean(axis=0))
    mark = steady_edges(grey, cameras) if camera * len(rows) > TRAVEL else None
    return Motion(every, camera, float(np.median(table[:, 2])), apart, still, mark)


def free(one: Pixels, other: Pixels, camera: NDArray[np.float32]) -> float:
    """The share of ``one`` that is not found in ``other`` where the camera's motion has put it.

    The flow alone cannot tell: it errs at borders and on grass by as much as a small subject moves.
    """
    height, width = one.shape
    columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    there = (columns + camera[..., 0], rows + camera[..., 1])
    aligned = cv2().remap(other, *there, cv2().INTER_LINEAR)
    inside = (there[0] > RIM) & (there[1] > RIM) & (there[0] < width - 1 - RIM) & (there[1] < height - 1 - RIM)
    # Blurred, as an error of a fraction of a pixel is no motion.
    soft = [cv2().blur(picture, (5, 5)).astype(np.int16) for picture in (one, aligned)]
    return float((np.abs(soft[0] - soft[1]) > UNLIKE)[inside].mean()) if inside.any() else 0.0


def camera_flow(flow: NDArray[np.float32]) -> NDArray[np.float32]:
    """The flow ``[H W 2]`` that pan, turn and zoom of a camera explain: fitted to most of the picture."""
    height, width = flow.shape[:2]
    rows, columns = np.mgrid[GRID // 2 : height : GRID, GRID // 2 : width : GRID]
    here = np.stack([columns, rows], -1).reshape(-1, 2).astype(np.float32)
    there = here + flow[rows, columns].reshape(-1, 2)
    matrix, _ = cv2().estimateAffine2D(here, there, method=cv2().RANSAC, ransacReprojThreshold=1.0)
    if matrix is None:
        return np.zeros_like(flow)
    every = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)
    return (every @ matrix[:, :2].T + matrix[:, 2] - every).astype(np.float32)


def steady_edges(grey: Sequence[Pixels], cameras: Sequence[NDArray[np.float32]], band: float = 0.2) -> float | None:
    """Share of the picture's rim (``band`` of each side) with edges that stay although the camera moves across them.

    A roof stays where it is while the camera pans along it: only what is steep in the direction of the motion counts.
    """
    moving = [(frame, flow) for frame, flow in zip(grey, cameras, strict=False) if _length(flow).mean() > PANS]
    if len(moving) < VIEWS:
        return None
    slopes = [(_slopes(frame), flow) for frame, flow in moving]
    steepest = max(float(_length(slope).max()) for slope, _ in slopes)
    across = [np.abs((slope * flow).sum(-1)) / np.maximum(_length(flow), 1e-6) for slope, flow in slopes]
    # One edge that stays keeps its direction; the edges of a texture that pass by have many.
    mean = np.mean([_length(slope) for slope, _ in slopes], axis=0)
    same = _length(np.mean([slope for slope, _ in slopes], axis=0)) > SAME * np.maximum(mean, 1.0)
    steady = (np.min(across, axis=0) > STEADY * steepest) & same
    height, width = steady.shape
    rim = np.ones_like(steady)
    rim[round(band * height) : round((1 - band) * height), round(band * width) : round((1 - band) * width)] = False
    return float(steady[rim].mean())


def _slopes(frame: Pixels) -> NDArray[np.float32]:
    """``[H W 2]``: how steep each pixel is to the right and downwards."""
    return np.stack([cv2().Sobel(frame, cv2().CV_32F, *way) for way in ((1, 0), (0, 1))], axis=-1)


def _length(field: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.hypot(field[..., 0], field[..., 1])
