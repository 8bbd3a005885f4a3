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
SAME = 0.95  # and of its mean steepness that is left when directions cancel


@dataclass(frozen=True)
class Motion:
    """Means over pairs of frames, in pixels of a picture of 448 columns: all motion, the camera's, and what is left
    of the liveliest twentieth of the picture; the share of the picture that looks otherwise than the camera explains;
    and the share of pairs in which nothing moves at all."""

    all: float
    camera: float
    own: float
    free: float
    still: float


def measure_motion(grey: Sequence[Pixels]) -> Motion:
    """``grey`` are frames ``[H W]``, eight a second."""
    flow = cv2().DISOpticalFlow_create(cv2().DISOPTICAL_FLOW_PRESET_FAST)
    rows = []
    for one, other in zip(grey, grey[1:], strict=False):
        moved = flow.calc(one, other, None)
        camera = camera_flow(moved)
        lengths = [np.linalg.norm(field, axis=-1) for field in (moved, camera, moved - camera)]
        still = float(np.abs(one.astype(np.int16) - other).mean()) < STILL
        rows.append(
            (lengths[0].mean(), lengths[1].mean(), np.quantile(lengths[2], 0.95), free(one, other, camera), still)
        )
    if not rows:
        return Motion(0.0, 0.0, 0.0, 0.0, 1.0)
    table = np.array(rows, np.float64)
    middle = np.median(table[:, 2])
    return Motion(*(float(value) for value in (*table[:, :2].mean(0), middle, *table[:, 3:].mean(0))))


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


def steady_edges(grey: Sequence[Pixels], band: float = 0.2) -> float:
    """Share of the picture's rim (``band`` of each side) with edges that stay where they are in every frame.

    It tells of a mark only where the camera moves: otherwise all of the background stays.
    """
    across, down = (np.stack([cv2().Sobel(frame, cv2().CV_32F, *way) for frame in grey]) for way in ((1, 0), (0, 1)))
    steep = np.hypot(across, down)
    mean = np.hypot(across.mean(axis=0), down.mean(axis=0))
    # One edge that stays keeps its direction; edges of a texture that pass by have many.
    same = mean > SAME * np.maximum(steep.mean(axis=0), 1.0)
    steady = (steep.min(axis=0) > STEADY * float(steep.max())) & same
    height, width = steady.shape
    rim = np.ones_like(steady)
    rim[round(band * height) : round((1 - band) * height), round(band * width) : round((1 - band) * width)] = False
    return float(steady[rim].mean())
