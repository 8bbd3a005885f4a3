"""How a clip moves: optical flow between frames, split into what the camera does and what is left."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .masks import cv2
from .models.kinds import Pixels

GRID = 8  # pixels between the points that the camera's motion is fitted to
STILL = 0.6  # mean difference of two frames, of 255, below which nothing moved
STEADY = 0.12  # of the frames' steepest edges, that an edge keeps in all frames


@dataclass(frozen=True)
class Motion:
    """Means over pairs of frames, in pixels of a picture of 448 columns: all motion, the camera's, and what is left
    of the liveliest twentieth of the picture; and the share of pairs in which nothing moves at all."""

    all: float
    camera: float
    own: float
    still: float


def measure_motion(grey: Sequence[Pixels]) -> Motion:
    """``grey`` are frames ``[H W]``, eight a second."""
    flow = cv2().DISOpticalFlow_create(cv2().DISOPTICAL_FLOW_PRESET_FAST)
    rows = []
    for one, other in zip(grey, grey[1:], strict=False):
        moved = flow.calc(one, other, None)
        camera = camera_flow(moved)
        left = np.linalg.norm(moved - camera, axis=-1)
        still = float(np.abs(one.astype(np.int16) - other).mean()) < STILL
        lively = float(np.quantile(left, 0.95))
        rows.append((np.linalg.norm(moved, axis=-1).mean(), np.linalg.norm(camera, axis=-1).mean(), lively, still))
    if not rows:
        return Motion(0.0, 0.0, 0.0, 1.0)
    table = np.array(rows, np.float64)
    return Motion(*(float(value) for value in (*table[:, :2].mean(0), np.median(table[:, 2]), table[:, 3].mean())))


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


def steady_edges(grey: Sequence[Pixels], band: float = 0.2) -> float:
    """Share of the picture's rim (``band`` of each side) with edges that stay where they are in every frame.

    It tells of a mark only where the camera moves: otherwise all of the background stays.
    """
    edges = np.stack([_steepness(frame) for frame in grey])
    steady = edges.min(axis=0) > STEADY * float(edges.max())
    height, width = steady.shape
    rim = np.ones_like(steady)
    rim[round(band * height) : round((1 - band) * height), round(band * width) : round((1 - band) * width)] = False
    return float(steady[rim].mean())


def _steepness(frame: Pixels) -> NDArray[np.float32]:
    across, down = (cv2().Sobel(frame, cv2().CV_32F, *way) for way in ((1, 0), (0, 1)))
    return np.hypot(across, down)
