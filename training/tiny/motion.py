"""How subjects move: motions as data, the lanes they share, and their poses frame by frame."""

import math
from dataclasses import dataclass

import numpy as np

Phrase = tuple[str, str]  # "spins", "spinning"


@dataclass(frozen=True)
class Motion:
    """A motion as the sum of simple parts; x points right, y down. Zero means that the part is absent."""

    phrases: tuple[Phrase, ...]
    travel: tuple[float, float] = (0.0, 0.0)  # straight through the lane, -1 or 1 on each axis
    circle: float = 0.0  # around a point, clockwise when positive
    hop: float = 0.0
    spin: float = 0.0  # clockwise when positive
    growth: float = 0.0  # 1 grows, -1 shrinks
    wobble: float = 0.0


def _slide(way: str, short: str, travel: tuple[float, float]) -> Motion:
    verbs = (("slides", "sliding"), ("moves", "moving"), ("glides", "gliding"), ("drifts", "drifting"))
    phrases = [(f"{does} {way}", f"{doing} {way}") for does, doing in verbs]
    return Motion((*phrases, (f"goes {short}", f"going {short}")), travel)


MOTIONS = {
    "right": _slide("to the right", "from left to right", (1, 0)),
    "left": _slide("to the left", "from right to left", (-1, 0)),
    "up": _slide("upwards", "up", (0, -1)),
    "down": _slide("downwards", "down", (0, 1)),
    "up right": _slide("up to the right", "diagonally up and right", (1, -1)),
    "up left": _slide("up to the left", "diagonally up and left", (-1, -1)),
    "down right": _slide("down to the right", "diagonally down and right", (1, 1)),
    "down left": _slide("down to the left", "diagonally down and left", (-1, 1)),
    "hop": Motion((("bounces", "bouncing"), ("hops up and down", "hopping up and down"),
                   ("bounces like a ball", "bouncing like a ball"), ("jumps", "jumping")), hop=1),
    "circle": Motion((("circles clockwise", "circling clockwise"), ("orbits clockwise", "orbiting clockwise"),
                      ("moves in a clockwise circle", "moving in a clockwise circle")), circle=1),
    "circle back": Motion((("circles counterclockwise", "circling counterclockwise"),
                           ("orbits counterclockwise", "orbiting counterclockwise"),
                           ("moves in a counterclockwise circle", "moving in a counterclockwise circle")), circle=-1),
    "spin": Motion((("spins clockwise", "spinning clockwise"), ("turns clockwise", "turning clockwise"),
                    ("rotates clockwise", "rotating clockwise")), spin=1),
    "spin back": Motion((("spins counterclockwise", "spinning counterclockwise"),
                         ("turns counterclockwise", "turning counterclockwise"),
                         ("rotates counterclockwise", "rotating counterclockwise")), spin=-1),
    "grow": Motion((("grows", "growing"), ("gets bigger", "getting bigger"),
                    ("becomes larger", "becoming larger")), growth=1),
    "shrink": Motion((("shrinks", "shrinking"), ("gets smaller", "getting smaller"),
                      ("becomes smaller", "becoming smaller")), growth=-1),
    "wobble": Motion((("stays and wobbles", "staying and wobbling"), ("wobbles in place", "wobbling in place"),
                      ("sways gently", "swaying gently")), wobble=1),
}  # fmt: skip
NAMES = tuple(MOTIONS)
_PARTS = {
    part: np.array([getattr(motion, part) for motion in MOTIONS.values()])
    for part in ("travel", "circle", "hop", "spin", "growth", "wobble")
}
_IN_PLACE = ("spin", "spin back", "grow", "shrink", "wobble")
_ROUND = ("circle", "circle back")


@dataclass(frozen=True)
class Layout:
    """Where subjects live: one lane each, the first's on the left or above, so that a sentence tells who is where.

    Frame coordinates run from -1 to 1.
    ``centres`` (x, y) of each lane, ``half`` its half width and height, ``sides`` the range of a subject's side as a
    part of the frame's, ``motions`` what each subject may do, ``weight`` how often the layout is drawn.
    """

    centres: tuple[tuple[float, float], ...]
    half: tuple[float, float]
    sides: tuple[float, float]
    motions: tuple[tuple[str, ...], ...]
    weight: float = 1.0
    crossing: bool = False


def _lanes(offsets: tuple[float, ...], upright: bool, sides: tuple[float, float], extra: tuple[str, ...]) -> Layout:
    """Columns (``upright``) or rows of equal width, where every subject may slide along its lane or act in place."""
    along = ("up", "down") if upright else ("left", "right")
    centres = tuple((offset, 0.0) if upright else (0.0, offset) for offset in offsets)
    narrow = 1 / len(offsets)
    half = (narrow, 1.0) if upright else (1.0, narrow)
    return Layout(centres, half, sides, ((*along, *along, *_IN_PLACE, *extra),) * len(offsets))


def _crossing(first: str, second: str) -> Layout:
    """Two subjects that pass each other in lanes which overlap."""
    flat = first in ("left", "right")
    centres = ((0.0, -0.16), (0.0, 0.16)) if flat else ((-0.16, 0.0), (0.16, 0.0))
    half = (1.0, 0.6) if flat else (0.6, 1.0)
    return Layout(centres, half, (0.38, 0.46), ((first,), (second,)), weight=0.13, crossing=True)


_THIRD = 2 / 3
LAYOUTS = (
    Layout(((0.0, 0.0),), (1.0, 1.0), (0.46, 0.64), (NAMES,)),
    _lanes((-0.5, 0.5), True, (0.41, 0.49), (*_ROUND, "hop", "hop")),
    _lanes((-0.5, 0.5), False, (0.41, 0.49), (*_ROUND, "hop")),
    _crossing("right", "left"), _crossing("left", "right"), _crossing("up", "down"), _crossing("down", "up"),
    _lanes((-_THIRD, 0, _THIRD), True, (0.28, 0.33), ("hop", "hop")),
    _lanes((-_THIRD, 0, _THIRD), False, (0.28, 0.33), ()),
)  # fmt: skip


@dataclass(frozen=True)
class Acts:
    """What N clips of up to S subjects do.

    ``motion`` int ``[N S]`` (index into ``NAMES``), ``crossing`` bool ``[N]``, ``poses`` float ``[N S F 4]``: x and y
    of the centre (-1..1), side (part of the frame's) and angle (radians, clockwise).
    """

    motion: np.ndarray
    crossing: np.ndarray
    poses: np.ndarray


def _draw_layouts(rng: np.random.Generator, counts: np.ndarray) -> np.ndarray:
    """A layout for each clip, by its number of subjects. int ``[N]`` -> int ``[N]``."""
    chosen = np.zeros(len(counts), dtype=np.int64)
    for count in np.unique(counts):
        fitting = [number for number, layout in enumerate(LAYOUTS) if len(layout.centres) == count]
        weights = np.array([LAYOUTS[number].weight for number in fitting])
        here = counts == count
        chosen[here] = rng.choice(fitting, size=int(here.sum()), p=weights / weights.sum())
    return chosen


def _poses(
    rng: np.random.Generator, motion: np.ndarray, half: np.ndarray, side: np.ndarray, crossing: np.ndarray, frames: int
) -> np.ndarray:
    """Poses around the lane's centre, ``[N S F 4]``; speeds are what a small autoencoder can follow.

    ``motion``, ``side`` ``[N S]``, ``half`` ``[N S 2]``, ``crossing`` bool ``[N]``.
    """
    part = {name: table[motion] for name, table in _PARTS.items()}
    drawn = {name: rng.uniform(low, high, motion.shape)[..., None] for name, low, high in (
        ("reach", 0.4, 0.65), ("turns", 0.35, 0.6), ("hops", 0.7, 1.1), ("phase", 0.0, 1.0), ("growth", 0.5, 0.85),
        ("sway", 0.14, 0.28), ("tilt", -0.26, 0.26),
    )}  # fmt: skip
    crossing = crossing[:, None, None]
    drawn["reach"] = drawn["reach"] + 0.15 * crossing  # far enough, from well placed starts, that they pass
    time = np.linspace(0, 1, frames)
    room = np.clip(half - side[..., None], 0.02, None)  # [N S 2]
    radius = room.min(-1, keepdims=True) * drawn["reach"] * np.abs(part["circle"])[..., None]
    travel = part["travel"] * room * drawn["reach"]
    height = room[..., 1:] * drawn["reach"] * part["hop"][..., None]
    used = np.abs(travel) + radius + np.concatenate([np.zeros_like(height), height], -1)
    start = (room - used) * rng.uniform(-0.8, 0.8, used.shape) * np.where(crossing, 0.15, 1.0)
    around = 2 * math.pi * (drawn["phase"] + part["circle"][..., None] * drawn["turns"] * time)  # [N S F]
    arc = 2 * np.abs(np.sin(math.pi * (drawn["phase"] + drawn["hops"] * time))) - 1
    swing = drawn["sway"] * part["wobble"][..., None] * np.sin(2 * math.pi * (drawn["phase"] + drawn["hops"] * time))
    x = start[..., :1] + travel[..., :1] * (2 * time - 1) + radius * np.cos(around) + 0.12 * swing
    y = start[..., 1:] + travel[..., 1:] * (2 * time - 1) + radius * np.sin(around) - height * arc
    growth = part["growth"][..., None]
    size = side[..., None] * 2 ** (-drawn["growth"] * np.abs(growth) * np.where(growth > 0, 1 - time, time))
    angle = drawn["tilt"] + swing + 2 * math.pi * part["spin"][..., None] * drawn["turns"] * time
    return np.stack([x, y, size, angle], axis=-1)


def draw_acts(rng: np.random.Generator, counts: np.ndarray, subjects: int, frames: int) -> Acts:
    """Motions and poses for clips with ``counts`` (int ``[N]``) of at most ``subjects`` subjects each."""
    layouts = [LAYOUTS[number] for number in _draw_layouts(rng, counts)]
    motion = np.zeros((len(counts), subjects), dtype=np.int64)
    centres = np.zeros((len(counts), subjects, 2))
    dice = rng.random(motion.shape)
    for clip, layout in enumerate(layouts):
        centres[clip, : len(layout.centres)] = layout.centres
        for seat, allowed in enumerate(layout.motions):
            motion[clip, seat] = NAMES.index(allowed[int(dice[clip, seat] * len(allowed))])
    half = np.array([layout.half for layout in layouts])[:, None].repeat(subjects, 1)
    low, high = np.array([layout.sides for layout in layouts]).T
    side = rng.uniform(low[:, None], high[:, None], motion.shape)
    crossing = np.array([layout.crossing for layout in layouts])
    poses = _poses(rng, motion, half, side, crossing, frames)
    poses[..., :2] += centres[:, :, None]
    return Acts(motion, crossing, poses)
