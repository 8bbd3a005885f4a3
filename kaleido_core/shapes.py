"""The values that cross boundaries, and the sizes the model can take."""

from dataclasses import dataclass

from torch import Tensor

from .errors import ShapeError, warn_once

Grid = tuple[int, int, int]  # (T, h, w): latent frames and patches

MAX_REFERENCES = 3
ALLOW = "Leave some out, or allow it: allow_extra_references=True, --allow-extra-references, allow_more on the node."
SPATIAL_STRIDE = 8  # pixels per latent cell
TEMPORAL_STRIDE = 4  # frames per latent frame, after the first
PIXEL_STEP = 16  # pixels per patch: two latent cells


def nearest_frames(frames: int) -> int:
    """The valid frame count (1, 5, 9, ...) closest to ``frames``."""
    return max(0, round((frames - 1) / TEMPORAL_STRIDE)) * TEMPORAL_STRIDE + 1


def nearest_side(pixels: int) -> int:
    """The valid height or width (16, 32, 48, ...) closest to ``pixels``."""
    return max(1, round(pixels / PIXEL_STEP)) * PIXEL_STEP


@dataclass(frozen=True)
class VideoSize:
    """A clip's size in pixels (SPEC 1): ``frames`` is 4k + 1, ``height`` and ``width`` are multiples of 16.

    Raises ``ShapeError`` naming the nearest valid value.
    """

    frames: int
    height: int
    width: int

    def __post_init__(self) -> None:
        if self.frames != nearest_frames(self.frames):
            raise ShapeError(
                f"{self.frames} frames: a clip has 1, 5, 9, ... (4k + 1) frames. "
                f"The nearest is {nearest_frames(self.frames)}."
            )
        for name, pixels in (("height", self.height), ("width", self.width)):
            if pixels != nearest_side(pixels):
                raise ShapeError(
                    f"{name} {pixels}: sides are multiples of {PIXEL_STEP} pixels. "
                    f"The nearest is {nearest_side(pixels)}."
                )

    @property
    def latent_frames(self) -> int:
        return (self.frames - 1) // TEMPORAL_STRIDE + 1

    def latent_shape(self, channels: int = 16, batch: int = 1) -> tuple[int, int, int, int, int]:
        """``(B, C, T, H / 8, W / 8)``."""
        return (batch, channels, self.latent_frames, self.height // SPATIAL_STRIDE, self.width // SPATIAL_STRIDE)


def check_reference_count(count: int, allow_extra_references: bool = False) -> None:
    """Refuse more references than the model was trained with, unless ``allow_extra_references``."""
    if count <= MAX_REFERENCES:
        return
    got = f"{count} references: the model was trained with at most {MAX_REFERENCES}. "
    if not allow_extra_references:
        raise ShapeError(got + ALLOW)
    warn_once("references", got + "Subjects may be mixed up; leave some out if they are.")


@dataclass(frozen=True)
class Conditioning:
    """What one branch of the model sees beside the latent (SPEC 3).

    ``context`` is ``[B L D]`` text features; ``references`` are clean latents ``[B 16 1 h w]``, sizes may differ.
    Raises ``ShapeError`` for more than three references unless ``allow_extra_references``.
    """

    context: Tensor
    references: tuple[Tensor, ...] = ()
    allow_extra_references: bool = False

    def __post_init__(self) -> None:
        check_reference_count(len(self.references), self.allow_extra_references)


@dataclass(frozen=True)
class Step:
    """One finished solver step: ``latent`` is the state after it, ``sigma`` the noise level it reached (0..1)."""

    index: int
    latent: Tensor
    sigma: float
