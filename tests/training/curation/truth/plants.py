"""What we plant: for every filter a way to spoil a clip, from barely (strength 0) to blatantly (1)."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from .scene import Frames, Scene

INK = (255, 0, 255)  # of planted text: no photograph has this colour, so a finder of it knows the truth


def _same_scene(scene: Scene, _: float) -> Scene:
    return scene


def _same_frames(frames: Frames, _: float) -> Frames:
    return frames


@dataclass(frozen=True)
class Plant:
    """How a scene is changed before it is drawn, and its frames afterwards."""

    scene: Callable[[Scene, float], Scene] = _same_scene
    frames: Callable[[Frames, float], Frames] = _same_frames


def _small(scene: Scene, strength: float) -> Scene:
    height = 2 * round((440 - 220 * strength) / 2)
    return replace(scene, width=2 * round(height * 2 / 3), height=height)


def _short(scene: Scene, strength: float) -> Scene:
    return replace(scene, seconds=1.75 - 1.4 * strength)


def _still(scene: Scene, strength: float) -> Scene:
    """Frozen after a third of the time, or from the beginning."""
    return replace(scene, freeze=0.35 * (1 - strength))


def _wild(scene: Scene, strength: float) -> Scene:
    """A hand-held camera that is thrown about, or a whip pan."""
    if scene.seed % 2:
        return replace(scene, shake=45 + 35 * strength)
    return replace(scene, pan=26 + 12 * strength)


def _camera_only(scene: Scene, strength: float) -> Scene:
    """Pans and zooms by turns; nothing lives in front."""
    if scene.seed % 2:
        return replace(scene, speed=0.0, pan=1.0 + 5 * strength)
    return replace(scene, speed=0.0, pan=0.0, zoom=0.003 + 0.004 * strength)


def _dark(frames: Frames, strength: float) -> Frames:
    target = 20 - 16 * strength
    return (np.arange(256) * (target / frames.mean())).clip(0, 255).astype(np.uint8)[frames]


def _bright(frames: Frames, strength: float) -> Frames:
    """Washed out: nearly everything is white."""
    rest = (15 - 12 * strength) / (255 - frames.mean())
    return (255 - (255 - np.arange(256, dtype=np.float32)) * rest).astype(np.uint8)[frames]


def _blurry(frames: Frames, strength: float) -> Frames:
    """Out of focus, enlarged from a thumbnail or smeared sideways, by turns."""
    size = (frames.shape[2], frames.shape[1])

    def focus(picture: Image.Image) -> Image.Image:
        return picture.filter(ImageFilter.GaussianBlur(5 + 8 * strength))

    def thumbnail(picture: Image.Image) -> Image.Image:
        share = 11 + 12 * strength
        small = picture.resize((round(size[0] / share), round(size[1] / share)), Image.Resampling.BOX)
        return small.resize(size, Image.Resampling.BICUBIC)

    spoil = thumbnail if int(strength * 1000) % 2 else focus
    return np.stack([np.asarray(spoil(Image.fromarray(frame))) for frame in frames])


def _text(frames: Frames, strength: float) -> Frames:
    """Subtitles, a watermark across the picture or a logo in its corner, by turns."""
    height, width = frames.shape[1:3]
    layer = Image.new("L", (width, height))
    pen = ImageDraw.Draw(layer)
    size = round(height * (0.085 + 0.07 * strength))
    font = ImageFont.load_default(size)
    words, place = (
        ("THE QUICK BROWN FOX", (width * 0.05, height - 1.6 * size)),
        ("SAMPLE STOCK", (width * 0.15, height * 0.4)),
        ("CHANNEL 7", (width * 0.45, height * 0.05)),
    )[int(strength * 1000) % 3]
    pen.text(place, words, fill=255, font=font)
    spoilt = frames.copy()
    spoilt[:, np.asarray(layer) > 127] = INK
    return spoilt


def _large(scene: Scene, _: float) -> Scene:
    """Enough is left when the bars are cut off."""
    return replace(scene, width=720, height=720)


def _bars(frames: Frames, strength: float) -> Frames:
    """Black above and below, or left and right."""
    spoilt = frames.copy()
    axis = 1 + int(strength * 1000) % 2
    thick = round(frames.shape[axis] * (0.04 + 0.12 * strength))
    spoilt = np.swapaxes(spoilt, 1, axis)
    spoilt[:, :thick] = 0
    spoilt[:, -thick:] = 0
    return np.ascontiguousarray(np.swapaxes(spoilt, 1, axis))


def _panned(scene: Scene, _: float) -> Scene:
    """A mark is known by staying where it is while the camera moves."""
    return replace(scene, pan=3.0)


def _mark(frames: Frames, strength: float) -> Frames:
    """A channel's logo in a corner, half transparent or nearly opaque."""
    height, width = frames.shape[1:3]
    side = round(height * 0.13)
    layer = Image.new("L", (width, height))
    pen = ImageDraw.Draw(layer)
    corner = int(strength * 1000) % 4
    left = 12 if corner % 2 else width - side - 12
    top = 12 if corner < 2 else height - side - 12
    for ring in range(0, side // 2, 14):
        pen.ellipse((left + ring, top + ring, left + side - ring, top + side - ring), outline=255, width=5)
    cover = np.asarray(layer, dtype=np.float32)[..., None] / 255 * (0.6 + 0.35 * strength)
    return (frames * (1 - cover) + 255 * cover).astype(np.uint8)


PLANTS = {
    "small": Plant(scene=_small),
    "short": Plant(scene=_short),
    "still": Plant(scene=_still),
    "wild": Plant(scene=_wild),
    "camera only": Plant(scene=_camera_only),
    "dark": Plant(frames=_dark),
    "bright": Plant(frames=_bright),
    "blurry": Plant(frames=_blurry),
    "text": Plant(frames=_text),
    "mark": Plant(scene=_panned, frames=_mark),
    "bars": Plant(scene=_large, frames=_bars),
}
