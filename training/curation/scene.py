"""What is in each frame of a clip, and what of it may lie on the mask of another thing."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from .boxes import is_part
from .clip import Box
from .models.kinds import Pixels
from .tracking import Spot

SOON = 2  # frames


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

    def company(self, spot: Spot) -> list[Box]:
        """Boxes of all rivals, and of lasting things within ``SOON`` frames: what is not found here is still there."""
        passing = []
        for chain in self.long:
            near = min(chain, key=lambda other: abs(other.frame - spot.frame))
            if all(other is not spot for other in chain) and 0 < abs(near.frame - spot.frame) <= SOON:
                passing.append(near.box)
        return [*(rival.box for rival in self.rivals(spot)), *passing]
