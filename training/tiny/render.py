"""Pictures of scenes: clips and reference images, painted in batches on any device."""

import torch
from torch import Tensor
from torch.nn import functional

from .backdrop import paint_backdrops
from .emoji import SIDE, EmojiSet
from .photos import PhotoSet
from .scene import Scenes


def render_clips(
    scenes: Scenes, emoji: EmojiSet, photos: PhotoSet, device: str | torch.device, chunk: int = 64
) -> Tensor:
    """All clips, ``[B 3 F H W]`` float32 in -1..1.

    ``emoji`` and ``photos`` lie on ``device``; ``chunk`` clips are painted at a time, to bound memory.
    """
    parts = [
        _render_clips(scenes[start : start + chunk], emoji, photos, device) for start in range(0, len(scenes), chunk)
    ]
    return torch.cat(parts)


def render_references(
    scenes: Scenes, emoji: EmojiSet, photos: PhotoSet, device: str | torch.device, chunk: int = 256
) -> list[Tensor]:
    """The reference images of each seat: R tensors ``[B 3 1 H W]`` float32 in -1..1."""
    pictures = []
    for seat in range(scenes.references.sprite.shape[1]):
        parts = [
            _render_references(scenes[start : start + chunk], seat, emoji, photos, device)
            for start in range(0, len(scenes), chunk)
        ]
        pictures.append(torch.cat(parts))
    return pictures


def _render_clips(scenes: Scenes, emoji: EmojiSet, photos: PhotoSet, device: str | torch.device) -> Tensor:
    frames = scenes.poses.shape[2]
    canvas = paint_backdrops(scenes.backdrop, photos, scenes.size, device)[:, :, None].repeat(1, 1, frames, 1, 1)
    for seat in range(scenes.sprite.shape[1]):
        poses = scenes.poses[:, seat]
        sprites = _subjects(scenes, seat, scenes.sprite[:, seat], None, emoji, device)
        # One softness for all frames: the geometric mean of the sizes.
        sprites = _soften(sprites, poses[..., 2].log().mean(1).exp() * scenes.size)
        grid = _pose_grid(poses.to(device), scenes.mirror[:, seat].to(device), scenes.size)
        layer = functional.grid_sample(sprites, grid, padding_mode="zeros", align_corners=False)
        layer = layer.unflatten(2, (frames, scenes.size))  # [B 4 F H W]
        canvas.mul_(1 - layer[:, 3:]).add_(layer[:, :3])
    return canvas.mul_(2).sub_(1).clamp_(-1, 1)


def _render_references(
    scenes: Scenes, seat: int, emoji: EmojiSet, photos: PhotoSet, device: str | torch.device
) -> Tensor:
    references = scenes.references
    canvas = paint_backdrops(references.backdrop[:, seat], photos, scenes.size, device)
    light = references.light[:, seat].to(device)
    sprites = _subjects(scenes, seat, references.sprite[:, seat], light, emoji, device)
    grid = _pose_grid(references.pose[:, seat, None].to(device), references.mirror[:, seat].to(device), scenes.size)
    # Larger than the drawing: bicubic keeps edges crisp.
    layer = functional.grid_sample(sprites, grid, mode="bicubic", padding_mode="zeros", align_corners=False).clamp(0, 1)
    painted = canvas * (1 - layer[:, 3:]) + torch.minimum(layer[:, :3], layer[:, 3:])
    return (painted * 2 - 1).clamp(-1, 1)[:, :, None]


def _subjects(
    scenes: Scenes, seat: int, sprite: Tensor, light: Tensor | None, emoji: EmojiSet, device: str | torch.device
) -> Tensor:
    """``_premultiplied`` drawings of a seat, each with the badge that it carries."""
    colour = scenes.colour[:, seat]
    own = _premultiplied(emoji, sprite, colour, light, device)
    worn = torch.where(sprite >= 0, scenes.badge[:, seat], -1)
    pose = scenes.badge_pose[:, seat, None].to(device)
    badge = _premultiplied(emoji, worn, colour, light, device)
    grid = _pose_grid(pose, torch.ones(len(pose), device=device), SIDE)
    badge = functional.grid_sample(badge, grid, padding_mode="zeros", align_corners=False)
    return own * (1 - badge[:, 3:]) + badge


def _premultiplied(
    emoji: EmojiSet, sprite: Tensor, colour: Tensor, light: Tensor | None, device: str | torch.device
) -> Tensor:
    """Recoloured and lit drawings with the alpha multiplied in, ``[B 4 64 64]`` in 0..1; an empty seat is transparent.

    Only premultiplied pixels may be averaged: hidden colours would bleed into dark fringes.
    """
    pixels = emoji.sprites[sprite.clamp_min(0).to(device)].float() / 255
    alpha = pixels[:, 3:] * (sprite >= 0).to(device).view(-1, 1, 1, 1)
    rgb = torch.einsum("bij,bjhw->bihw", colour.to(device), pixels[:, :3]).clamp(0, 1)
    if light is not None:
        gain, contrast, gamma = light[:, :3, None, None], light[:, 3, None, None, None], light[:, 4, None, None, None]
        rgb = ((rgb**gamma * gain - 0.5) * contrast + 0.5).clamp(0, 1)
    return torch.cat([rgb * alpha, alpha], 1)


def _soften(sprites: Tensor, side: Tensor) -> Tensor:
    """Blur what will be drawn smaller than it is, so that it does not alias. ``side`` in pixels ``[B]``, on the CPU."""
    amount = torch.log2(SIDE / side).clamp(0, 1).to(sprites.device).view(-1, 1, 1, 1)
    kernel = torch.tensor([0.25, 0.5, 0.25], device=sprites.device)
    kernel = (kernel[:, None] * kernel).expand(4, 1, 3, 3)
    return torch.lerp(sprites, functional.conv2d(sprites, kernel, padding=1, groups=4), amount)


def _pose_grid(poses: Tensor, mirror: Tensor, size: int) -> Tensor:
    """Where each pixel of each frame looks in its drawing. ``[B F 4]``, ``[B]`` -> ``[B F*H W 2]``.

    Frames are stacked along the height, so that one drawing serves them all.
    """
    x, y, side, angle = poses.unbind(-1)  # [B F]
    cos, sin = angle.cos() / side, angle.sin() / side
    mirror = mirror[:, None]
    across = torch.stack([cos * mirror, sin * mirror, -(cos * x + sin * y) * mirror], -1)
    down = torch.stack([-sin, cos, sin * x - cos * y], -1)
    affine = torch.stack([across, down], -2).flatten(0, 1)  # [B*F 2 3]
    grid = functional.affine_grid(affine, [len(affine), 1, size, size], align_corners=False)
    return grid.unflatten(0, poses.shape[:2]).flatten(1, 2)
