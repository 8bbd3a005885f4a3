"""Which place a subject is put before: of another shot, unlike the clip's own, and large enough."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from . import footage
from .clip import Clip, Drop
from .models.kinds import Pixels
from .plates import backgrounds
from .pose import colours, same_colours
from .stage import Place
from .variants import SceneConfig

TRIES = 16  # places that are looked at for one scene


class Backdrops:
    """The clean places of other clips, for the scenes of one."""

    def __init__(self, clip: Clip, others: Sequence[Clip], place: Place, config: SceneConfig) -> None:
        self.clip, self.place, self.config = clip, place, config
        self._others = [other for other in others if backgrounds(other) and not self._near(other, clip)]

    def choose(self, source: Clip, chance: Generator) -> tuple[Clip, Pixels] | Drop | None:
        """A place for a subject that was cut out of ``source``, in the shape of the clip; None without any."""
        others = [other for other in self._others if not self._near(other, source)]
        fault = None
        for number in chance.permutation(len(others))[:TRIES]:
            whole = footage.read_picture(self.place.out / backgrounds(others[number]))
            plate = shaped(whole, self.clip.width / max(self.clip.height, 1) or 16 / 9)
            fault = self._fault(whole, plate, others[number])
            if fault is None:
                return others[number], plate
        return fault

    def _near(self, other: Clip, clip: Clip) -> bool:
        """Of one video, and so soon before or after that it may be the same shot, cut into pieces."""
        if other.source.key != clip.source.key:
            return False
        return max(other.start - clip.end, clip.start - other.end) < self.config.away

    def _fault(self, whole: Pixels, plate: Pixels, other: Clip) -> Drop | None:
        rows = plate.shape[0] * 720 / min(other.height or 720, footage.HEIGHT)
        if rows < self.config.smallest:
            return Drop("pairs", "new_background: small place", rows, self.config.smallest, other.id)
        seen = colours(whole, np.full(whole.shape[:2], 255, np.uint8))
        alike = max((same_colours(mine, seen) for mine in self._home), default=0.0)
        if alike > self.config.same_place:
            return Drop("pairs", "new_background: same place", alike, self.config.same_place, other.id)
        return None

    @cached_property
    def _home(self) -> list[NDArray[np.float32]]:
        """The colours of the clip's frames without its subject."""
        found: list[NDArray[np.float32]] = []
        for track in self.clip.kept_tracks:
            for sight in track.sights:
                if sight.mask:
                    frame = footage.read_picture(self.place.out / footage.sight_picture(self.clip, track, sight))
                    found.append(colours(frame, 255 - footage.read_mask(self.place.out / sight.mask)))
        return found


def shaped(plate: Pixels, ratio: float) -> Pixels:
    """The largest part of this ratio of width to height: in the middle, and at the bottom, where the ground is."""
    height, width = plate.shape[:2]
    rows, columns = min(height, round(width / ratio)), min(width, round(height * ratio))
    left = (width - columns) // 2
    return np.ascontiguousarray(plate[height - rows :, left : left + columns])
