"""Other pictures of the same subject: turned and lit otherwise, or before another clip's background."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from .boxes import whole
from .cutting import on_white
from .masks import box_of, cv2, disc
from .models.kinds import Inpainter, Pixels


@dataclass(frozen=True)
class ChangeConfig:
    """How far a picture is changed: enough that it is no copy, little enough that it stays the same subject."""

    least_turn: float = 6.0  # degrees
    turn: float = 14.0
    scale: float = 0.10  # of the two sides against each other
    lean: float = 0.08  # of perspective, in shares of the side
    light: float = 0.18  # of brightness and contrast
    tint: float = 0.03  # of each colour


@dataclass(frozen=True)
class SceneConfig:
    """Before which place a subject is put, and how."""

    away: float = 10.0  # seconds between the clip and a place of the same video: nearer, it may be the same shot
    same_place: float = 0.60  # likeness of its colours with the clip's own place, at most
    smallest: int = 280  # rows that are left of it in the clip's shape, of 720
    least: float = 0.55  # of the picture's height or width, that the subject takes
    most: float = 0.85
    rows: int = 512  # of the picture that is made
    feather: float = 1.5  # pixels, at these rows


Warp = Callable[[tuple[int, ...], ChangeConfig, Generator], NDArray[np.float64]]


def changed(
    crop: Pixels, mask: Pixels, config: ChangeConfig, chance: Generator, warp: Warp | None = None
) -> tuple[Pixels, Pixels]:
    """Turned, leaning, and in another light; on white, with its mask. Never mirrored: writing and partings stay."""
    height, width = mask.shape
    pad = round(0.22 * max(height, width))
    wide = cv2().copyMakeBorder(crop, pad, pad, pad, pad, cv2().BORDER_CONSTANT, value=(255, 255, 255))
    far = cv2().copyMakeBorder(mask, pad, pad, pad, pad, cv2().BORDER_CONSTANT, value=0)
    matrix = (warp or turned)(far.shape, config, chance)
    size = (far.shape[1], far.shape[0])
    way = {"flags": cv2().INTER_CUBIC, "borderMode": cv2().BORDER_CONSTANT}
    wide = cv2().warpPerspective(wide, matrix, size, borderValue=(255, 255, 255), **way)
    far = cv2().warpPerspective(far, matrix, size, borderValue=0, **way)
    left, top, right, bottom = whole(box_of(far))
    rim = max(2, round(0.06 * max(right - left, bottom - top)))
    rows = slice(max(top - rim, 0), bottom + rim)
    columns = slice(max(left - rim, 0), right + rim)
    part, area = lit(wide[rows, columns], config, chance), np.ascontiguousarray(far[rows, columns])
    return on_white(part, area), area


def turned(shape: tuple[int, ...], config: ChangeConfig, chance: Generator) -> NDArray[np.float64]:
    """Turned, stretched and seen from a little aside."""
    height, width = shape
    turn = chance.uniform(config.least_turn, config.turn) * chance.choice([-1.0, 1.0])
    rotation = np.vstack([cv2().getRotationMatrix2D((width / 2, height / 2), turn, 1.0), [0, 0, 1]])
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    stretch = _stretch(shape, config, chance)
    lean = chance.uniform(0, config.lean, (4, 2)).astype(np.float32) * np.array([width, height], np.float32)
    inward = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]], np.float32)
    return cv2().getPerspectiveTransform(corners, corners + lean * inward).astype(np.float64) @ stretch @ rotation


def leaning(shape: tuple[int, ...], config: ChangeConfig, chance: Generator) -> NDArray[np.float64]:
    """Leaning to a side and stretched; what was level stays level, so that a cut at the lower border can lie on one."""
    aside = np.tan(np.radians(chance.uniform(config.least_turn, config.turn))) * chance.choice([-1.0, 1.0])
    lean = np.array([[1, aside, -aside * shape[0] / 2], [0, 1, 0], [0, 0, 1]], np.float64)
    return _stretch(shape, config, chance) @ lean


def _stretch(shape: tuple[int, ...], config: ChangeConfig, chance: Generator) -> NDArray[np.float64]:
    """The two sides against each other, about the middle; never larger."""
    stretch = 1 + chance.uniform(-config.scale, config.scale)
    middle = np.array([[1, 0, shape[1] / 2], [0, 1, shape[0] / 2], [0, 0, 1]], np.float64)
    return middle @ np.diag([min(stretch, 1.0), min(1 / stretch, 1.0), 1.0]) @ np.linalg.inv(middle)


def lit(picture: Pixels, config: ChangeConfig, chance: Generator) -> Pixels:
    """In another light: brightness, contrast and tint."""
    gain = 1 + chance.uniform(-config.light, config.light)
    lift = 255 * chance.uniform(-config.light, config.light) / 3
    tint = 1 + chance.uniform(-config.tint, config.tint, 3)
    value = (picture.astype(np.float32) - 128) * gain + 128 + lift
    return np.clip(np.rint(value * tint), 0, 255).astype(np.uint8)


def restored(crop: Pixels, mask: Pixels, label: str, fill: Inpainter, most: float) -> tuple[Pixels, Pixels] | None:
    """With the notch filled that something before the subject has left; None where it is nothing, or too much.

    The model is told that the hole is in a ``label``: unasked, it would paint an empty place into it.
    """
    radius = max(2, round(0.08 * float((mask >= 128).sum()) ** 0.5))
    framed = cv2().copyMakeBorder(mask, radius, radius, radius, radius, cv2().BORDER_CONSTANT, value=0)
    closed = cv2().morphologyEx(framed, cv2().MORPH_CLOSE, disc(radius))[radius:-radius, radius:-radius]
    notch = np.where((closed >= 128) & (mask < 128), 255, 0).astype(np.uint8)
    share = float((notch > 0).sum()) / max(float((mask >= 128).sum()), 1.0)
    if not 0.002 <= share <= most:
        return None
    return on_white(fill.fill(crop, notch, f"a photo of the whole {label}"), closed), np.ascontiguousarray(closed)


def before(
    crop: Pixels, mask: Pixels, plate: Pixels, config: SceneConfig, chance: Generator, grounded: bool
) -> tuple[Pixels, Pixels]:
    """The subject before ``plate``, with a soft edge; and its mask there. ``grounded``: it stands on the lower border.

    The picture has the plate's shape at ``rows`` rows, so that the background is never stretched.
    """
    factor = config.rows / plate.shape[0]
    way = cv2().INTER_AREA if factor < 1 else cv2().INTER_CUBIC
    scene = cv2().resize(plate, None, fx=factor, fy=factor, interpolation=way).astype(np.float32)
    rows, columns = scene.shape[:2]
    left, top, right, bottom = whole(box_of(mask))
    share = chance.uniform(config.least, config.most)
    size = share * min(rows / (bottom - top), columns / (right - left))
    wide, high = max(8, round((right - left) * size)), max(8, round((bottom - top) * size))
    way = cv2().INTER_AREA if size < 1 else cv2().INTER_CUBIC
    part = cv2().resize(crop[top:bottom, left:right], (wide, high), interpolation=way)
    alpha = soft(
        cv2().resize(mask[top:bottom, left:right], (wide, high), interpolation=cv2().INTER_AREA), config.feather
    )
    x = round(chance.uniform(0.1, 0.9) * (columns - wide))
    sunk = round(0.02 * high)  # the cut edge of what goes on below lies outside
    y = rows - high + sunk if grounded else round(chance.uniform(0.7, 0.95) * (rows - high))
    part, alpha = part[: rows - y], alpha[: rows - y]
    window = scene[y : y + high, x : x + wide]
    window[:] = part * alpha[..., None] + window * (1 - alpha[..., None])
    area = np.zeros((rows, columns), np.uint8)
    area[y : y + high, x : x + wide] = np.rint(alpha * 255).astype(np.uint8)
    return np.clip(np.rint(scene), 0, 255).astype(np.uint8), area


def soft(mask: Pixels, feather: float) -> np.ndarray:
    """A mask of 0 to 1, drawn in by the feather's width: the old background does not shine around the subject."""
    framed = cv2().copyMakeBorder(mask, 4, 4, 4, 4, cv2().BORDER_REPLICATE)
    radius = max(1, round(feather))
    inner = cv2().erode((framed >= 128).astype(np.float32), disc(radius))
    return cv2().GaussianBlur(inner, (0, 0), feather)[4:-4, 4:-4]
