"""Does a clip show this drawing? Plain pixel matching by analysis-by-synthesis; nothing is learnt.

A drawing is laid over the frame at a pose (place, size, turn, flip). It matches as far as it explains the pixels under
it better than one flat colour does, that of a thin ring around it. The best pose is searched on a grid, then refined.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from kaleido_core.errors import ShapeError

PATCH_SCALE = 1.25  # a patch is the drawing's box and a margin, for the ring
GAIN = (0.8, 1.25)  # how much darker or brighter than the drawing the subject may be
FLOOR = 0.01  # squared error per pixel (three channels, colours in 0..1) that counts as noise
SIZE_POWER = 0.25  # a small drawing finds something like itself by chance more easily


@dataclass(frozen=True)
class Search:
    """Where to look. Sizes in pixels of a 128-pixel frame, strides in drawing sizes, patch sides in samples."""

    sizes: tuple[float, ...] = (20, 26, 34, 44, 58, 74)
    turns: int = 12
    stride: float = 0.25
    coarse_side: int = 8
    middle_side: int = 12
    fine_side: int = 24
    steps: int = 12
    frames_at_once: int = 4


class Drawings(NamedTuple):
    """Candidates as weighted patches: colours [M 3 G G] in 0..1; weight and ring [M G G], each adding up to 1."""

    colour: Tensor
    weight: Tensor
    ring: Tensor

    @property
    def power(self) -> Tensor:
        """Weighted mean of the squared colour: [M]."""
        return (self.weight * self.colour.square().sum(1)).sum((1, 2))


class Moments(NamedTuple):
    """What a match needs to know of the frame under a drawing: weighted means; colours are last: [... 3]."""

    mean: Tensor
    surround: Tensor
    square: Tensor
    product: Tensor


class Matches(NamedTuple):
    """How well each clip shows each drawing, ``score`` [N M] from 0 up, and where.

    A score is the logarithm of the factor by which the drawing lowers the squared error of a flat surround, weighted
    by size^(1/4), at the best pose, 0 where no pose lowers it; averaged over the clip's frames. ``pose`` [N S M 4] in
    each frame is x and y in -1..1, size as a share of the frame, and radians; ``mirrored`` int64 [N S M] is 0 or 1.
    """

    score: Tensor
    pose: Tensor
    mirrored: Tensor


def find_drawings(
    frames: Tensor, sprites: Tensor, count: int, device: str = "cpu", search: Search | None = None
) -> Tensor:
    """The ``count`` drawings that each clip shows best, int64 [N count]; arguments as ``match_drawings``.

    Each one found is painted over with its surround before the next is looked for: else what looks like the first
    subject would outrank the second, and a second that looks like the first would be seen in the first one's place.
    """
    found = torch.empty(len(frames), 0, dtype=torch.int64)
    while True:
        matches = match_drawings(frames, sprites, device, search)
        best = matches.score.scatter(1, found, -1.0).argmax(1)  # [N]
        found = torch.cat([found, best[:, None]], 1)
        if found.shape[1] == count:
            return found
        frames = _painted_over(frames, sprites, matches, best)


def match_drawings(frames: Tensor, sprites: Tensor, device: str = "cpu", search: Search | None = None) -> Matches:
    """Look for each drawing in each clip: [N S 3 H W] in -1..1, uint8 RGBA [M 4 64 64]."""
    if frames.ndim != 5 or frames.shape[-2] != frames.shape[-1]:
        raise ShapeError(f"frames are {list(frames.shape)}; we need square ones, [N S 3 H H]. Crop or pad them first.")
    search = search or Search()
    images = ((frames.to(device, torch.float32) + 1) / 2).flatten(0, 1)
    chunks = [_match_frames(chunk, sprites.to(device), search) for chunk in images.split(search.frames_at_once)]
    score, *place = (torch.cat(part).unflatten(0, frames.shape[:2]).cpu() for part in zip(*chunks, strict=True))
    return Matches(score.mean(1), *place)


def all_found_rate(found: Tensor, targets: Tensor) -> float:
    """Share of clips whose R drawings found are the R targets, [N R] both, in any order."""
    return (found.sort(1).values == targets.sort(1).values).all(1).float().mean().item()


def _match_frames(images: Tensor, sprites: Tensor, search: Search) -> tuple[Tensor, Tensor, Tensor]:
    """[K 3 H W] in 0..1, [M 4 64 64] -> [K M], [K M 4], [K M]: every drawing's best pose, refined in two climbs."""
    poses, mirrored = _likely_poses(images, _drawings(sprites, search.coarse_side), search)
    _, poses, mirrored = _climb(images, _drawings(sprites, search.middle_side), poses, mirrored, search)
    scores, poses, mirrored = _climb(images, _drawings(sprites, search.fine_side), poses, mirrored, search)
    return scores[..., 0], poses[:, :, 0], mirrored[..., 0]


def _painted_over(frames: Tensor, sprites: Tensor, matches: Matches, which: Tensor) -> Tensor:
    """``frames`` [N S 3 H H] with drawing ``which`` [N] of each clip, and its rim, in the mean colour around it."""
    rows, drawings = torch.arange(len(frames)), _drawings(sprites.cpu(), Search.fine_side)
    mirrored = matches.mirrored[rows, :, which]  # [N S]
    chosen = (which[:, None] + mirrored * len(sprites)).flatten()
    poses = matches.pose[rows, :, which].flatten(0, 1)  # [N*S 4]
    images = frames.float().cpu().flatten(0, 1)
    ring = drawings.ring[chosen]
    colour = (ring[:, None] * _sample(images, poses[:, None], Search.fine_side)[:, 0]).sum((2, 3))
    shape = ((drawings.weight[chosen] > 0) | (ring > 0)).float()[:, None]
    cover = F.grid_sample(shape, _grid_of_frame(poses, frames.shape[-1]), align_corners=False)
    return torch.lerp(images, colour[:, :, None, None], cover).view(frames.shape)


def _grid_of_frame(poses: Tensor, side: int) -> Tensor:
    """Where each pixel of a frame lies in the patch of a drawing at its pose: [K 4] -> [K side side 2]."""
    x, y, size, angle = poses.unbind(-1)
    cos, sin = (wave(angle) / (PATCH_SCALE * size) for wave in (torch.cos, torch.sin))
    affine = torch.stack([cos, sin, -(cos * x + sin * y), -sin, cos, sin * x - cos * y], -1).view(-1, 2, 3)
    return F.affine_grid(affine, [len(poses), 1, side, side], align_corners=False)


def _drawings(sprites: Tensor, side: int) -> Drawings:
    """uint8 [M 4 64 64] -> 2M drawings, as they are and then mirrored, with a margin, in patches of ``side``."""
    sprites = sprites.float() / 255
    premultiplied = torch.cat([sprites[:, :3] * sprites[:, 3:], sprites[:, 3:]], dim=1)
    margin = round(sprites.shape[-1] * (PATCH_SCALE - 1) / 2)
    patch = F.interpolate(F.pad(premultiplied, (margin,) * 4), (side, side), mode="bilinear", antialias=True)
    patch = torch.cat([patch, patch.flip(-1)])
    alpha = patch[:, 3]
    width = max(1, round(side * 0.08))
    dilated = F.max_pool2d(alpha[:, None], 2 * width + 1, stride=1, padding=width)[:, 0]
    ring = dilated - alpha
    weight = alpha.square()  # squared: the half-covered rim shows as much background as drawing
    return Drawings(
        colour=patch[:, :3] / alpha[:, None].clamp_min(1e-3),
        weight=weight / weight.sum((1, 2), keepdim=True),
        ring=ring / ring.sum((1, 2), keepdim=True),
    )


def _likely_poses(images: Tensor, drawings: Drawings, search: Search) -> tuple[Tensor, Tensor]:
    """Search the grid: [K 3 H W] -> each drawing's best pose of each size [K M sizes 4], and if mirrored [K M sizes].

    One of each size, because a grid pose that is slightly off explains less than a small copy inside the subject.
    """
    best = [_best_of_size(images, drawings, size / 128, search) for size in search.sizes]
    poses, mirrored = (torch.stack(part, 2) for part in zip(*best, strict=True))
    return poses, mirrored


def _best_of_size(images: Tensor, drawings: Drawings, size: float, search: Search) -> tuple[Tensor, Tensor]:
    """The best place, turn and flip for one size, a share of the frame: poses [K M 4], mirrored [K M]."""
    # In a frame of about the patch's resolution, sampling does not alias.
    height = min(images.shape[-1], round(search.coarse_side / (size * PATCH_SCALE)))
    small = F.interpolate(images, (height, height), mode="bilinear", antialias=True)
    evidence, poses = [], []
    for turn in range(search.turns):
        grid = _pose_grid(size, 2 * math.pi * turn / search.turns, search.stride).to(images.device)
        patches = _sample(small, grid.expand(len(images), -1, -1), search.coarse_side)
        best, place = _evidence(_moments_of_all(patches, drawings), drawings.power).max(1)  # [K 2M]
        evidence.append(best.unflatten(1, (2, -1)))
        poses.append(grid[place].unflatten(1, (2, -1)))
    best = torch.stack(evidence, 1).flatten(1, 2).argmax(1)  # [K M], out of turns * 2 flips
    poses = torch.stack(poses, 1).flatten(1, 2)  # [K turns*2 M 4]
    return poses.gather(1, best[:, None, :, None].expand(-1, -1, -1, 4))[:, 0], best % 2


def _pose_grid(size: float, angle: float, stride: float) -> Tensor:
    """All places for one size (share of the frame) and angle: [P 4] of x, y in -1..1, size, radians."""
    count = round(1 / (size * stride))
    axis = (torch.arange(count) + 0.5) / count * 2 - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([x, y, torch.full_like(x, size), torch.full_like(x, angle)], dim=-1).flatten(0, 1)


def _sample(images: Tensor, poses: Tensor, side: int) -> Tensor:
    """Cut turned squares out of the frames: [K 3 H W], [K P 4] -> [K P 3 side side]."""
    x, y, size, angle = poses.flatten(0, 1).unbind(-1)
    cos, sin = (PATCH_SCALE * size * wave(angle) for wave in (torch.cos, torch.sin))
    affine = torch.stack([cos, -sin, x, sin, cos, y], dim=-1).view(-1, 2, 3)
    grid = F.affine_grid(affine, [len(affine), 3, side, side], align_corners=False)
    grid = grid.view(len(images), -1, side, 2)
    patches = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return patches.unflatten(2, (-1, side)).transpose(1, 2)


def _moments_of_all(patches: Tensor, drawings: Drawings) -> Moments:
    """Every patch [K P 3 G G] under every drawing [M]: [K P M]."""
    weight, ring = drawings.weight.flatten(1), drawings.ring.flatten(1)
    weighted = (drawings.weight[:, None] * drawings.colour).flatten(1)
    flat = patches.flatten(3)
    return Moments(
        mean=(flat @ weight.T).movedim(2, -1),
        surround=(flat @ ring.T).movedim(2, -1),
        square=flat.square().sum(2) @ weight.T,
        product=patches.flatten(2) @ weighted.T,
    )


def _moments_of_pairs(patches: Tensor, drawings: Drawings) -> Moments:
    """Patch i [P 3 G G] under drawing i [P]: [P]."""
    weighted = drawings.weight[:, None] * patches
    return Moments(
        mean=weighted.sum((2, 3)),
        surround=(drawings.ring[:, None] * patches).sum((2, 3)),
        square=(weighted * patches).sum((1, 2, 3)),
        product=(weighted * drawings.colour).sum((1, 2, 3)),
    )


def _evidence(frame: Moments, power: Tensor) -> Tensor:
    """How much better a drawing fits than its surround: |frame - surround|^2 over |frame - gain * drawing|^2."""
    surround = frame.surround
    contrast = frame.square + (surround * (surround - 2 * frame.mean)).sum(-1)
    gain = (frame.product / power.clamp_min(1e-6)).clamp(*GAIN)
    error = frame.square - 2 * gain * frame.product + gain.square() * power
    return (contrast + FLOOR) / (error + FLOOR)


def _climb(
    images: Tensor, drawings: Drawings, poses: Tensor, mirrored: Tensor, search: Search
) -> tuple[Tensor, Tensor, Tensor]:
    """Improve poses [K M P 4] by gradient; the best one of each drawing: score [K M 1], pose [K M 1 4], mirrored."""
    which = torch.arange(poses.shape[1], device=poses.device)[:, None] + mirrored * poses.shape[1]  # [K M P]
    drawings = Drawings(*(field[which.flatten()] for field in drawings))
    power, side = drawings.power, drawings.weight.shape[-1]
    half = F.interpolate(images, scale_factor=0.5, mode="bilinear", antialias=True)
    start = poses.flatten(1, 2)
    moves = torch.zeros_like(start, requires_grad=True)
    optimizer = torch.optim.Adam([moves], lr=0.03)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=search.steps)

    def evidence() -> Tensor:
        patches = _sample(half, _moved(start, moves), side).flatten(0, 1)
        return _evidence(_moments_of_pairs(patches, drawings), power)

    with torch.enable_grad():
        for _ in range(search.steps):
            optimizer.zero_grad()
            (-evidence().sum()).backward()
            optimizer.step()
            decay.step()
    with torch.no_grad():
        poses = _moved(start, moves).view_as(poses)
        # A drawing that fits nowhere better than its surround scores 0.
        scores = evidence().view(poses.shape[:3]).log().clamp_min(0) * poses[..., 2] ** SIZE_POWER
    best = scores.argmax(-1, keepdim=True)
    return scores.gather(2, best), poses.gather(2, best[..., None].expand(-1, -1, -1, 4)), mirrored.gather(2, best)


def _moved(poses: Tensor, moves: Tensor) -> Tensor:
    """Apply moves [... 4], scaled so that equal steps change the picture about equally."""
    x, y, size, angle = poses.unbind(-1)
    right, down, growth, turn = moves.unbind(-1)
    size_moved = size * growth.clamp(-0.25, 0.25).exp()
    return torch.stack([x + right * size, y + down * size, size_moved, angle + 2 * turn], dim=-1)
