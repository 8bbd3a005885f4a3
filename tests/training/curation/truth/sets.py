"""The sets of videos whose truth is known: spoilt clips, films with cuts, and copies."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from .photos import FILES
from .plants import PLANTS
from .scene import Frames, Scene, draw, write

EACH = 12  # plants of every kind
CLEAN = 36
FILMS = 10
COPIES = 14
DRAWERS = 2  # at once


STILL_LIFE = Scene(0)


@dataclass(frozen=True)
class Planted:
    """A video and its truth: what is wrong with it ("" is nothing), where it is cut, whose copy it is."""

    name: str
    path: Path
    plant: str = ""
    cuts: tuple[float, ...] = ()
    copy_of: str = ""
    scene: Scene = STILL_LIFE


def spoilt_clips(folder: Path, each: int = EACH, clean: int = CLEAN) -> list[Planted]:
    """Clean clips, and ``each`` of every plant from barely to blatant."""
    jobs = [(f"clean_{number:02d}", "", 0.0) for number in range(clean)]
    for plant in PLANTS:
        jobs += [(f"{plant.replace(' ', '_')}_{number:02d}", plant, number / (each - 1)) for number in range(each)]
    made = [_clip(folder, place, *job) for place, job in enumerate(jobs)]
    return _all(made)


def films(folder: Path, count: int = FILMS) -> list[Planted]:
    """Three to five shots each, hard cuts between; some have a flash of light or a fast pan, which is no cut."""
    return _all([_film(folder, number) for number in range(count)])


def copies(folder: Path, count: int = COPIES) -> list[Planted]:
    """Pairs of a clip and its copy, each changed in another way; every fifth clip is alone with a look-alike's name."""
    jobs = []
    for number in range(count):
        scene = _scene(7000 + number, number)
        jobs.append(_saved(folder / f"first_{number:02d}.mp4", scene, _unchanged, 16))
        jobs.append(_saved(folder / f"second_{number:02d}.mp4", scene, CHANGES[number % len(CHANGES)], 22 + number))
        # The same actor before another part of a photograph: alike, yet no copy.
        other = replace(scene, seed=scene.seed + 500, photo=scene.photo + 3)
        jobs.append(_saved(folder / f"alone_{number:02d}.mp4", other, _unchanged, 16))
    made = _all(jobs)
    return [
        replace(one, copy_of=one.name.replace("second", "first")) if one.name.startswith("second") else one
        for one in made
    ]


Job = Callable[[], Planted]
Change = Callable[[Frames], Frames]


def _all(jobs: Iterable[Job]) -> list[Planted]:
    with ThreadPoolExecutor(DRAWERS) as pool:
        return list(pool.map(lambda job: job(), jobs))


def _scene(seed: int, number: int) -> Scene:
    random = np.random.default_rng(seed)
    speed, pan = float(random.uniform(5, 10)), float(random.uniform(0, 1.5))
    return Scene(seed, photo=number % len(FILES), sprite=number * 3 + number // len(FILES), speed=speed, pan=pan)


def _clip(folder: Path, place: int, name: str, plant: str, strength: float) -> Job:
    def make() -> Planted:
        scene = _scene(100 + place, place)
        change = PLANTS[plant].frames if plant else lambda frames, _: frames
        if plant:
            scene = PLANTS[plant].scene(scene, strength)
        path = folder / f"{name}.mp4"
        write(change(draw(scene), strength), path, scene.fps)
        return Planted(name, path, plant=plant, scene=scene)

    return make


def _film(folder: Path, number: int) -> Job:
    def make() -> Planted:
        random = np.random.default_rng(3000 + number)
        shots, cuts, total = [], [], 0
        for shot in range(int(random.integers(3, 6))):
            scene = replace(
                _scene(3000 + 10 * number + shot, 3 * number + shot),
                width=426,
                height=320,
                fps=24,
                seconds=float(random.uniform(2.2, 3.2)),
                pan=4.0 if shot == number % 4 else 0.3,
            )
            frames = draw(scene)
            if shot == (number + 1) % 4:
                middle = len(frames) // 2
                frames[middle : middle + 2] = (frames[middle : middle + 2] * 1.5).clip(0, 255)
            shots.append(frames)
            total += len(frames)
            cuts.append(total / 24)
        path = folder / f"film_{number:02d}.mp4"
        write(np.concatenate(shots), path, 24)
        return Planted(path.stem, path, cuts=tuple(cuts[:-1]), scene=Scene(0, seconds=total / 24, fps=24))

    return make


def _saved(path: Path, scene: Scene, change: Change, quality: int) -> Job:
    def make() -> Planted:
        write(change(draw(scene)), path, scene.fps, quality)
        return Planted(path.stem, path, scene=scene)

    return make


def _unchanged(frames: Frames) -> Frames:
    return frames


def _smaller(frames: Frames) -> Frames:
    return np.stack([np.asarray(Image.fromarray(frame).resize((576, 432))) for frame in frames])


def _brighter(frames: Frames) -> Frames:
    return (frames * 1.15 + 6).clip(0, 255).astype(np.uint8)


def _trimmed(frames: Frames) -> Frames:
    return frames[2:-2]


def _cropped(frames: Frames) -> Frames:
    height, width = frames.shape[1:3]
    return np.stack([np.asarray(Image.fromarray(frame[6:-6, 8:-8]).resize((width, height))) for frame in frames])


def _greyer(frames: Frames) -> Frames:
    grey = frames.mean(axis=3, keepdims=True)
    return (0.5 * frames + 0.5 * grey).astype(np.uint8)


CHANGES = (_unchanged, _smaller, _brighter, _trimmed, _cropped, _greyer)
