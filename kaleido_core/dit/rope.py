"""R-RoPE: where each token sits, and the rotation that tells the attention so (paper section 3, SPEC 2)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import warn_once
from ..shapes import Grid

REFERENCE_OFFSET = 80  # patches; fixed by the released weights, whatever the video's size


def r_rope_positions(
    grid: Grid,
    reference_grids: Sequence[Grid],
    offset: int = REFERENCE_OFFSET,
    device: torch.device | str | None = None,
) -> Tensor:
    """Place every token: ``(T, h, w)`` and a list of ``(1, h_i, w_i)`` -> int64 ``[N 3]``, references first.

    A video token sits at (t, row, column), a token of reference i at (i, offset + row, offset + column): references
    share their times with the first frames and are told from them by the spatial offset alone.
    """
    if max(grid[1:]) > offset:
        warn_once(
            "rope",
            f"The video is {grid[1]} x {grid[2]} patches; above {offset} its positions reach those of the references. "
            f"Expect subjects to bleed; stay within {offset * 16} pixels a side.",
        )
    parts = [
        _grid_positions(reference_grid, (index, offset, offset), device)
        for index, reference_grid in enumerate(reference_grids)
    ]
    return torch.cat([*parts, _grid_positions(grid, (0, 0, 0), device)])


def _grid_positions(grid: Grid, first: Grid, device: torch.device | str | None) -> Tensor:
    """All (t, row, column) of a grid that begins at ``first``, row-major: ``[T*h*w 3]``."""
    axes = (torch.arange(start, start + length, device=device) for start, length in zip(first, grid, strict=True))
    return torch.cartesian_prod(*axes)


def axis_widths(head_width: int) -> tuple[int, int, int]:
    """How a head's channels are split over time, rows and columns: 128 -> (44, 42, 42)."""
    spatial = 2 * (head_width // 6)
    return head_width - 2 * spatial, spatial, spatial


def rotary_angles(positions: Tensor, head_width: int, theta: float = 10000.0) -> Tensor:
    """``[N 3]`` -> float32 ``[N K/2]``: the angle by which each pair of channels is turned, in radians."""
    angles = []
    for position, width in zip(positions.float().unbind(1), axis_widths(head_width), strict=True):
        exponents = torch.arange(0, width, 2, dtype=torch.float32, device=positions.device) / width
        angles.append(torch.outer(position, 1.0 / theta**exponents))
    return torch.cat(angles, dim=1)


def apply_rotary(x: Tensor, angles: Tensor) -> Tensor:
    """Turn neighbouring channel pairs of ``x`` ``[B A N K]`` by ``angles`` ``[N K/2]``."""
    return rotate_pairs(x, angles.cos(), angles.sin())


def rotate_pairs(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """As ``apply_rotary``, for angles whose cosine and sine ``[N K/2]`` are already known."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)
