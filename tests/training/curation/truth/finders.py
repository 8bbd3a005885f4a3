"""Models that know the truth: a finder of planted text by its ink."""

import numpy as np

from training.curation.models.kinds import Found, Pixels

from .plants import INK

NEAR = 70  # how far a video codec moves a colour


class InkFinder:
    """One box around all that is written in ``INK``."""

    def text(self, picture: Pixels) -> list[Found]:
        away = np.abs(picture.astype(np.int16) - np.array(INK, dtype=np.int16)).max(axis=2)
        rows, columns = np.nonzero(away < NEAR)
        if len(rows) < 20:
            return []
        return [Found("text", (float(columns.min()), float(rows.min()), float(columns.max()), float(rows.max())), 1.0)]


def ink_finder() -> InkFinder:
    """A factory, as stages ask for one."""
    return InkFinder()
