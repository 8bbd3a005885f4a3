"""Clips as numbers: everything that a clip and its reference images show, drawn from one seed."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from kaleido_core.errors import ConfigError
from kaleido_core.shapes import MAX_REFERENCES, VideoSize

from .backdrop import Backdrop, describe, draw_backdrops
from .captions import compose, unnamed, with_article, without_colour
from .emoji import EmojiSet
from .motion import MOTIONS, NAMES, Acts, draw_acts

Split = Literal["train", "held_out"]

CLIP_ODDS = {
    "plain": 4,
    "gradient": 2,
    "stripes": 1,
    "checks": 1,
    "dots": 1,
    "clouds": 1,
    "night": 0.5,
    "land": 2.5,
    "photo": 2,
}
REFERENCE_ODDS = {"white": 60, "plain": 14, "gradient": 10, "clouds": 4, "photo": 12}
RECOLOURED = 0.4  # of the training clips' subjects: new identities, seen only in clip and reference
OTHER_VENDOR = 0.05
SAME_SIDE = 0.9  # of the references face the way the subject does in the clip
BADGED = 0.5  # of the training clips' subjects carry a piece of another drawing: identities without end
UNNAMED = 0.5  # of the captions with references, in training: what names do not tell, references must
_CANDIDATES = 4  # backdrops tried for contrast with the subjects
_CLEAR = 0.42  # distance of colours in the unit cube at which a subject is well seen


@dataclass(frozen=True)
class References:
    """The reference images of N clips, R each; the subjects of seats 0..R-1.

    ``sprite`` int64 ``[N R]``, ``pose`` ``[N R 4]`` as in ``Acts``, ``mirror`` ``[N R]`` (-1 mirrored, else 1),
    ``light`` ``[N R 5]`` (gain of red, green, blue; contrast; gamma), ``backdrop`` of leading shape ``[N R]``.
    """

    sprite: Tensor
    pose: Tensor
    mirror: Tensor
    light: Tensor
    backdrop: Backdrop

    def __getitem__(self, index: slice | Tensor) -> "References":
        return References(
            self.sprite[index], self.pose[index], self.mirror[index], self.light[index], self.backdrop[index]
        )


@dataclass(frozen=True)
class Scenes:
    """N clips with S seats for subjects. On the CPU; ``scenes[i:j]`` or ``scenes[indices]`` selects clips.

    ``identity`` and ``sprite`` int64 ``[N S]``, -1 where a seat is empty; ``poses`` float32 ``[N S F 4]`` as in
    ``Acts``, ``mirror`` ``[N S]``; in clip and reference alike ``colour`` ``[N S 3 3]``, a subject's recolouring, and
    ``badge`` int64 ``[N S]``, a drawing that it carries (-1 for none) at ``badge_pose`` ``[N S 4]``, as in ``Acts`` but
    within the subject. ``size`` is the side of clips and references in pixels.
    """

    captions: tuple[str, ...]
    identity: Tensor
    sprite: Tensor
    poses: Tensor
    mirror: Tensor
    colour: Tensor
    badge: Tensor
    badge_pose: Tensor
    backdrop: Backdrop
    references: References
    size: int

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, index: slice | Tensor) -> "Scenes":
        numbers = torch.arange(len(self))[index].tolist()
        return Scenes(
            captions=tuple(self.captions[number] for number in numbers),
            identity=self.identity[index],
            sprite=self.sprite[index],
            poses=self.poses[index],
            mirror=self.mirror[index],
            colour=self.colour[index],
            badge=self.badge[index],
            badge_pose=self.badge_pose[index],
            backdrop=self.backdrop[index],
            references=self.references[index],
            size=self.size,
        )


def sample_scenes(
    emoji: EmojiSet, count: int, references: int, seed: int, split: Split, frames: int = 17, size: int = 128
) -> Scenes:
    """``count`` clips with ``references`` (0..3) subjects and a reference image of each.

    With 0 references a clip has one or two subjects which only the caption names. The same arguments give the same
    clips.
    """
    VideoSize(frames, size, size)
    if not 0 <= references <= MAX_REFERENCES:
        raise ConfigError(f"{references} references: a clip has 0 to {MAX_REFERENCES}. Choose a number in that range.")
    rng = np.random.default_rng([seed, references, ("train", "held_out").index(split)])
    seats = references or 2
    counts = np.full(count, references) if references else rng.integers(1, 3, count)
    empty = torch.from_numpy(np.arange(seats) >= counts[:, None])
    identity = _draw_identities(rng, emoji, (count, seats), split).masked_fill(empty, -1)
    vendor = torch.from_numpy(rng.integers(0, 2, (count, seats)))
    sprite = emoji.drawings[identity, vendor].masked_fill(empty, -1)
    colour, recoloured = _draw_colours(rng, (count, seats), RECOLOURED if split == "train" else 0.0)
    badge, badge_pose = _draw_badges(rng, emoji, (count, seats), BADGED if split == "train" else 0.0)
    acts = draw_acts(rng, counts, seats, frames)
    backdrop = _draw_clear_backdrops(rng, _mean_colours(emoji, sprite, colour), empty)
    mirror = _draw_mirrors(rng, (count, seats))
    return Scenes(
        captions=_write_captions(
            rng, emoji, sprite, recoloured, acts, backdrop, UNNAMED if split == "train" and references else 0
        ),
        identity=identity,
        sprite=sprite,
        poses=torch.from_numpy(acts.poses).float(),
        mirror=mirror,
        colour=colour,
        badge=badge,
        badge_pose=badge_pose,
        backdrop=backdrop,
        references=_draw_references(rng, emoji.drawings[identity, 1 - vendor], sprite, mirror[:, :references]),
        size=size,
    )


def _draw_identities(rng: np.random.Generator, emoji: EmojiSet, shape: tuple[int, int], split: Split) -> Tensor:
    """Different identities of the split in each row."""
    pool = emoji.identity[emoji.held_out == (split == "held_out")].unique()
    if len(pool) < 2 * shape[1]:
        raise ConfigError(f"{len(pool)} identities in the split {split}; we need {2 * shape[1]}. Use a larger pack.")
    # A start and steps that cannot come full circle: no two are equal.
    steps = rng.integers(1, (len(pool) - 1) // shape[1] + 1, shape)
    steps[:, 0] = rng.integers(0, len(pool), shape[0])
    places = torch.from_numpy(steps.cumsum(1) % len(pool))
    # Shuffled once per call, so that neighbours in the pool do not meet more often than others.
    return pool[torch.from_numpy(rng.permutation(len(pool)))][places]


def _draw_mirrors(rng: np.random.Generator, shape: tuple[int, int]) -> Tensor:
    return torch.from_numpy(rng.choice([-1.0, 1.0], shape)).float()


def _draw_colours(rng: np.random.Generator, shape: tuple[int, int], odds: float) -> tuple[Tensor, Tensor]:
    """Recolourings ``[N S 3 3]`` (the identity where none) and whether there is one, ``[N S]``.

    A turn of the hue around the grey axis, sometimes with red and blue exchanged, and another saturation.
    """
    chosen = torch.from_numpy(rng.random(shape) < odds)
    angle = torch.from_numpy(rng.uniform(0.5, 2 * math.pi - 0.5, shape)).float()[..., None, None]
    saturation = torch.from_numpy(rng.uniform(0.6, 1.3, shape)).float()[..., None, None]
    grey = torch.full((3, 3), 1 / 3)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    turn = angle.cos() * (torch.eye(3) - grey) + angle.sin() * cross + grey
    exchange = torch.from_numpy(rng.random(shape) < 0.3)[..., None, None]
    turn = torch.where(exchange, turn @ torch.eye(3).flip(0), turn)
    colour = saturation * turn + (1 - saturation) * grey
    return torch.where(chosen[..., None, None], colour, torch.eye(3)), chosen


def _draw_badges(
    rng: np.random.Generator, emoji: EmojiSet, shape: tuple[int, int], odds: float
) -> tuple[Tensor, Tensor]:
    """A drawing of the training split for ``odds`` of the subjects ``[N S]``, and where it lies on them ``[N S 4]``."""
    pool = (~emoji.held_out).nonzero().flatten()
    badge = pool[torch.from_numpy(rng.integers(0, len(pool), shape))]
    badge = torch.where(torch.from_numpy(rng.random(shape) < odds), badge, -1)
    centre = rng.uniform(-0.45, 0.45, (*shape, 2))
    side = rng.uniform(0.35, 0.75, (*shape, 1))
    angle = rng.uniform(-math.pi, math.pi, (*shape, 1))
    return badge, torch.from_numpy(np.concatenate([centre, side, angle], -1)).float()


def _mean_colours(emoji: EmojiSet, sprite: Tensor, colour: Tensor) -> Tensor:
    """The average colour of each subject, ``[N S 3]`` in 0..1."""
    return (colour @ emoji.mean_colour[sprite][..., None])[..., 0].clamp(0, 1)


def _draw_clear_backdrops(rng: np.random.Generator, subjects: Tensor, empty: Tensor) -> Backdrop:
    """A backdrop for each clip, on which no subject is lost. ``subjects`` ``[N S 3]``, ``empty`` ``[N S]``."""
    count = len(subjects)
    candidates = draw_backdrops(rng, (count, _CANDIDATES), CLIP_ODDS)
    distance = (candidates.colours[:, :, None] - subjects[:, None, :, None]).norm(dim=-1)  # [N candidates S 2]
    distance = distance.masked_fill(empty[:, None, :, None], 9.0).amin((2, 3))
    # The first clear one; only where none is clear, the clearest. Kinds keep their odds.
    best = (distance.clamp_max(_CLEAR) - 1e-4 * torch.arange(_CANDIDATES)).argmax(1)
    return candidates[(torch.arange(count), best)]


def _draw_references(rng: np.random.Generator, other: Tensor, sprite: Tensor, mirror: Tensor) -> References:
    """Cross-paired: never the clip's scale; another turn, light and backdrop, sometimes the other side or drawing.

    ``other`` and ``sprite`` int64 ``[N S]``, ``mirror`` the subjects' sides in the clip ``[N R]``.
    """
    shape = (len(sprite), references := mirror.shape[1])
    swapped = torch.from_numpy(rng.random(shape) < OTHER_VENDOR)
    angle = rng.uniform(-math.pi / 15, math.pi / 15, shape)
    angle = np.where(rng.random(shape) < 0.03, rng.uniform(-math.pi, math.pi, shape), angle)
    # A turned square must still fit, roughly: drawings seldom reach into their corners.
    room = 1 / (np.abs(np.cos(angle)) + np.abs(np.sin(angle))) ** 0.6
    side = 0.72 + (0.95 * room - 0.72) * rng.random(shape)
    centre = (np.maximum(1 - side / room, 0) * rng.uniform(-0.9, 0.9, (2, *shape))).transpose(1, 2, 0)
    pose = np.concatenate([centre, side[..., None], angle[..., None]], -1)
    gain = rng.uniform(0.86, 1.08, (*shape, 1)) * rng.uniform(0.97, 1.03, (*shape, 3))
    curve = np.stack([rng.uniform(0.88, 1.1, shape), np.exp(rng.uniform(-0.16, 0.16, shape))], -1)
    return References(
        sprite=torch.where(swapped, other[:, :references], sprite[:, :references]),
        pose=torch.from_numpy(pose).float(),
        mirror=torch.where(torch.from_numpy(rng.random(shape) < SAME_SIDE), mirror, -mirror),
        light=torch.from_numpy(np.concatenate([gain, curve], -1)).float(),
        backdrop=draw_backdrops(rng, shape, REFERENCE_ODDS),
    )


def _write_captions(
    rng: np.random.Generator,
    emoji: EmojiSet,
    sprite: Tensor,
    recoloured: Tensor,
    acts: Acts,
    backdrop: Backdrop,
    odds: float,
) -> tuple[str, ...]:
    """One caption per clip; with ``odds`` the subjects stay unnamed, as a reference image can tell more."""
    phrases = [MOTIONS[name].phrases for name in NAMES]
    throws = rng.integers(0, 2**31, (len(sprite), 12)).tolist()
    nameless = (rng.random(len(sprite)) < odds).tolist()
    places = zip(backdrop.kind.tolist(), backdrop.variant.tolist(), backdrop.hue.tolist(), strict=True)
    rows = zip(
        sprite.tolist(),
        recoloured.tolist(),
        acts.motion.tolist(),
        acts.crossing.tolist(),
        places,
        throws,
        nameless,
        strict=True,
    )
    captions = []
    for drawings, painted, motions, crossing, place, throw, is_nameless in rows:
        dice = iter(throw)
        drawings = [drawing for drawing in drawings if drawing >= 0]
        names = [emoji.names[drawing] for drawing in drawings]
        names = [without_colour(name) if changed else name for name, changed in zip(names, painted, strict=False)]
        if is_nameless:
            subjects = [unnamed(position, len(names)) for position in range(len(names))]
        else:
            article = next(dice)
            subjects = [with_article(name, article) for name in names]
        wordings = [phrases[motion] for motion in motions[: len(names)]]
        captions.append(compose(subjects, wordings, crossing, describe(*place), dice))
    return tuple(captions)
