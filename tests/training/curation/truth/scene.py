"""One scene with known truth: a sprite walks in front of a photograph while the camera pans."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .photos import Pixels, backdrop, sprites

Frames = NDArray[np.uint8]  # [F H W 3]
SHARE = 0.375  # of the picture's shorter side, the sprite's


@dataclass(frozen=True)
class Scene:
    """What is seen. ``pan`` and ``speed`` are the camera's and the sprite's pixels per frame; no speed, no sprite.

    ``shake`` throws the camera about by that many pixels; after ``freeze`` (a share of the time) nothing moves.
    """

    seed: int
    photo: int = 0
    sprite: int = 0
    width: int = 640
    height: int = 480
    fps: int = 12
    seconds: float = 2.5
    pan: float = 0.5
    zoom: float = 0.0
    speed: float = 6.0
    shake: float = 0.0
    freeze: float = 1.0
    grain: float = 2.0


def draw(scene: Scene) -> Frames:
    import cv2  # missing on some machines, where the tests of this folder are skipped

    random = np.random.default_rng(scene.seed)
    count = round(scene.seconds * scene.fps)
    reach = int(scene.pan * count + 2 * scene.shake) + 8
    ground = backdrop(scene.photo, scene.height + reach, scene.width + reach, random)
    noise = np.tile(_grain(scene, random), (1, 2, 3))  # twice as wide: a roll is a window of it
    sprite = _sprite(scene)
    path = _path(scene, count, sprite.shape[0], random)
    frames = np.empty((count, scene.height, scene.width, 3), dtype=np.uint8)
    for number in range(count):
        moved = min(number, int(scene.freeze * count))
        frame = _view(scene, ground, moved, random)
        if scene.speed:
            _paste(frame, sprite, path[moved])
        left = -97 * moved % scene.width
        cv2.add(frame, noise[:, left : left + scene.width], dst=frames[number], dtype=cv2.CV_8U)  # clips to 0 and 255
    return frames


def write(frames: Frames, path: Path, fps: int, quality: int = 16) -> None:
    """An H.264 file; a lower ``quality`` number is a better picture."""
    import imageio_ffmpeg  # the core's own dependency

    height, width = frames.shape[1:3]
    params = ["-preset", "ultrafast", "-crf", str(quality), "-threads", "1"]
    writer = imageio_ffmpeg.write_frames(
        str(path), (width, height), fps=fps, codec="libx264", macro_block_size=2, output_params=params
    )
    writer.send(None)
    for frame in frames:
        writer.send(np.ascontiguousarray(frame))
    writer.close()


def _grain(scene: Scene, random: np.random.Generator) -> NDArray[np.int16]:
    return (random.standard_normal((scene.height, scene.width, 1)) * scene.grain).astype(np.int16)


def _path(scene: Scene, count: int, side: int, random: np.random.Generator) -> NDArray[np.float64]:
    """``[F + 1, 2]``: left and top of the sprite, reflected at the borders of the picture."""
    room = np.array((scene.width, scene.height)) - float(side)
    angle = random.uniform(0, 2 * np.pi)
    steps = np.arange(count + 1)[:, None] * scene.speed * np.array((np.cos(angle), np.sin(angle)))
    return room - np.abs((random.uniform(0, 1, 2) * room + steps) % (2 * room) - room)


def _view(scene: Scene, ground: Pixels, number: int, random: np.random.Generator) -> Pixels:
    jump = random.integers(0, int(2 * scene.shake) + 1, 2) if scene.shake else (0, 0)
    left, top = int(scene.pan * number) + int(jump[0]), int(scene.pan * number / 2) + int(jump[1])
    width, height = (round(side / (1 + scene.zoom * number)) for side in (scene.width, scene.height))
    view = ground[top : top + height, left : left + width]
    if scene.zoom:
        view = np.asarray(Image.fromarray(view).resize((scene.width, scene.height), Image.Resampling.BICUBIC))
    return view.copy()


def _sprite(scene: Scene) -> Pixels:
    """About a tenth of the picture."""
    known = sprites()
    side = round(SHARE * min(scene.width, scene.height))
    return np.asarray(Image.fromarray(known[scene.sprite % len(known)]).resize((side, side)))


def _paste(frame: Pixels, sprite: Pixels, corner: NDArray[np.float64]) -> None:
    left, top = int(corner[0]), int(corner[1])
    part = frame[top : top + sprite.shape[0], left : left + sprite.shape[1]]
    np.copyto(part, sprite[..., :3], where=sprite[..., 3:] > 127)
