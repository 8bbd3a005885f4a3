"""What is in each frame of a clip, and what of it may lie on the mask of another thing."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from .boxes import area, is_part, shared, within
from .clip import Box
from .masks import crowded
from .models.kinds import Pixels
from .tracking import Spot

SOON = 2  # frames
INSIDE, SMALLER = 0.8, 0.7  # share of a part in the whole, and of its size


@dataclass(frozen=True)
class Scene:
    """The frames of a clip with all that was found in each, and the chains of spots that are one thing."""

    times: Sequence[float]
    pictures: Sequence[Pixels]
    spots: Sequence[Sequence[Spot]]
    chains: Sequence[tuple[Spot, ...]]
    long: Sequence[tuple[Spot, ...]]  # all chains that last, also refused ones

    @cached_property
    def lasting(self) -> frozenset[int]:
        """Ids of the spots of long chains."""
        return frozenset(id(spot) for chain in self.long for spot in chain)

    def rivals(self, spot: Spot) -> list[Spot]:
        """What else is there: things that last, and what overlaps without being a part of the thing or around it."""
        others = [other for other in self.spots[spot.frame] if other is not spot]
        return [other for other in others if id(other) in self.lasting or not is_part(spot.box, other.box)]

    def crowding(self, spot: Spot, mask: Pixels) -> dict[str, float]:
        """How much of a mask other things may have: ``crowded`` what is beside, ``part`` and ``several`` what is inside
        of its box. No reason for a refusal by itself: a head is found inside of its body."""
        here = self._parts(spot, spot.frame)
        near = [here, *(self._parts(spot, frame) for frame in (spot.frame - 1, spot.frame + 1))]
        return {
            "crowded": crowded(mask, self._company(spot)),
            "part": crowded(mask, here),
            "several": max(several(spot.box, boxes) for boxes in near),
        }

    def _company(self, spot: Spot) -> list[Box]:
        """Boxes of all rivals, and of lasting things within ``SOON`` frames: what is not found here is still there."""
        passing = []
        for chain in self.long:
            near = min(chain, key=lambda other: abs(other.frame - spot.frame))
            if all(other is not spot for other in chain) and 0 < abs(near.frame - spot.frame) <= SOON:
                passing.append(near.box)
        return [*(rival.box for rival in self.rivals(spot)), *passing]

    def _parts(self, spot: Spot, frame: int) -> list[Box]:
        """Boxes of smaller things that are found inside of the thing's box."""
        found = self.spots[frame] if 0 <= frame < len(self.spots) else ()
        inner = [other.box for other in found if other is not spot and within(other.box, spot.box) > INSIDE]
        return [box for box in inner if area(box) < SMALLER * area(spot.box)]


def several(box: Box, parts: Sequence[Box]) -> float:
    """The share of a box that the smaller of two parts has which hardly overlap: two creatures, where a head and its
    body would."""
    apart = [
        min(area(one), area(other))
        for number, one in enumerate(parts)
        for other in parts[number + 1 :]
        if shared(one, other) < 0.1 * min(area(one), area(other))
    ]
    return max(apart, default=0.0) / max(area(box), 1e-6)
