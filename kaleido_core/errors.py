"""The errors a user can meet, and warnings that are said once.

Every message has three parts: what we got, what we need, what to do.
"""

import functools
import logging


class KaleidoError(Exception):
    """Anything Kaleido refuses to do."""


class ShapeError(KaleidoError, ValueError):
    """A size, a frame count or a number of references that the model cannot take."""


class ConfigError(KaleidoError, ValueError):
    """A setting that is unknown, out of range or in conflict with another."""


class CheckpointError(KaleidoError):
    """A weights file that is not what it should be."""


class DataError(KaleidoError):
    """An image, a video or a list that cannot be read or does not fit."""


def first_line(error: Exception) -> str:
    """What an error of a compiler or a driver says, without the pages behind it."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@functools.cache
def warn_once(area: str, message: str) -> None:
    """Log ``message`` as a warning of ``kaleido.<area>``, once per process."""
    logging.getLogger(f"kaleido.{area}").warning(message)
