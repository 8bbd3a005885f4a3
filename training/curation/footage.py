"""What stages read and write of a clip: its frames, PNG pictures and masks, by paths relative to the output folder."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from . import video
from .clip import Clip, Sight, Track
from .cutting import Look
from .models.kinds import Pixels, Vector
from .stage import Place

HEIGHT = 720  # frames are read at this height at most


def film(clip: Clip, place: Place) -> tuple[Path, float, float]:
    """The file that holds the clip, and where in it the clip begins and ends: its own file once it is cut."""
    if clip.video:
        return place.out / clip.video, 0.0, clip.end - clip.start
    return Path(clip.source.path), clip.start, clip.end


def frames(clip: Clip, place: Place, fps: float) -> tuple[list[float], list[Pixels]]:
    """Times after the clip's beginning, and the frames there."""
    path, start, end = film(clip, place)
    times, pictures = video.sample(path, fps, start, end, HEIGHT if clip.height > HEIGHT else None)
    return [time - start for time in times], pictures


def write_picture(picture: Pixels, path: Path) -> None:
    """A lossless file; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path, format="PNG")


def read_picture(path: Path) -> Pixels:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def read_mask(path: Path) -> Pixels:
    with Image.open(path) as image:
        return np.asarray(image.convert("L"))


def mask_path(path: str) -> str:
    """Where the mask of a picture lies: beside it."""
    return f"{path.removesuffix('.png')}-mask.png"


def sight_picture(clip: Clip, track: Track, sight: Sight) -> str:
    """Where the frame of a masked sight lies: kept beside its mask, so that later stages need no decoder."""
    return f"clips/{clip.id}/{track.id}-{round(sight.time * 1000):06d}.png"


def write_sight(clip: Clip, track: Track, sight: Sight, picture: Pixels, look: Look, place: Place) -> Sight:
    """Frame and mask as files; the sight with its mask's path and scores."""
    path = sight_picture(clip, track, sight)
    mask = mask_path(path)
    write_picture(picture, place.out / path)
    write_picture(look.mask, place.out / mask)
    return replace(sight, mask=mask, scores={name: float(value) for name, value in look.scores.items()})


def write_looks(path: Path, looks: Sequence[tuple[float, Look]]) -> None:
    """The vectors of a track's masked sights, and of those faces that were seen."""
    path.parent.mkdir(parents=True, exist_ok=True)
    faces = [look.face.identity for _, look in looks if look.face is not None]
    with path.open("wb") as file:
        np.savez(
            file,
            times=np.array([time for time, _ in looks], np.float64),
            looks=np.stack([look.vector for _, look in looks]).astype(np.float32),
            faces=np.array(faces, np.float32),
        )


@dataclass(frozen=True)
class Features:
    """What ``write_looks`` wrote: a row for each masked sight, in their order, and one for each face."""

    times: NDArray[np.float64]
    looks: Vector
    faces: Vector


def read_features(path: Path) -> Features:
    """The vectors of a track. Never a pickle."""
    with np.load(path, allow_pickle=False) as arrays:
        return Features(*(arrays[name] for name in ("times", "looks", "faces")))
