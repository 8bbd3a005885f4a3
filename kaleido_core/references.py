"""Reference images: onto a white canvas of the video's size, then to latents one by one (SPEC 8)."""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from .errors import DataError, ShapeError
from .shapes import VideoSize

Encode = Callable[[Tensor], Tensor]  # pixels [1 3 1 H W] in -1..1 -> latent [1 16 1 h w]
Picture = Image.Image | np.ndarray | Tensor
Fit = Literal["letterbox", "crop"]
WHITE = (255, 255, 255)


def letterbox(image: Picture, height: int, width: int) -> Tensor:
    """Fit an image into ``height`` x ``width`` on white: float32 ``[1 3 1 H W]`` in -1..1.

    ``image`` is a PIL image or uint8 ``[H W 3]``. As in training, transparency is dropped without blending and EXIF
    orientation is not applied; ``clean_picture`` does both beforehand.
    """
    canvas = letterbox_image(image, height, width)
    pixels = torch.from_numpy(np.array(canvas)).permute(2, 0, 1).float()
    return ((pixels - 127.5) / 127.5)[None, :, None]


def letterbox_image(image: Picture, height: int, width: int) -> Image.Image:
    """As ``letterbox``, as a picture: what the model sees. Letterboxing it again changes nothing."""
    image = _to_pil(image).convert("RGB")
    size = fitted_size(image.width, image.height, height, width)
    canvas = Image.new("RGB", (width, height), WHITE)
    corner = (width - size[0]) // 2, (height - size[1]) // 2  # the odd pixel goes right and down
    canvas.paste(image.resize(size, Image.Resampling.LANCZOS), corner)
    return canvas


def fitted_size(image_width: int, image_height: int, height: int, width: int) -> tuple[int, int]:
    """(width, height) of an image scaled to fit, with the official float rounding; sides are at least 1."""
    ratio = image_width / image_height
    if ratio > width / height:
        return width, max(1, int(width / ratio))
    return max(1, int(height * ratio)), height


def cropped_image(image: Picture, height: int, width: int) -> Image.Image:
    """Fill ``height`` x ``width`` with the middle of the image; the model was trained on whole ones (``letterbox``)."""
    return ImageOps.fit(_to_pil(image).convert("RGB"), (width, height), Image.Resampling.LANCZOS)


def whiten_background(image: Picture, keep: np.ndarray) -> Image.Image:
    """White wherever ``keep`` ``[h w]`` in 0..1, stretched over the image, is 0."""
    picture = _to_pil(image).convert("RGB")
    mask = Image.fromarray((keep.clip(0, 1) * 255).round().astype(np.uint8)).resize(picture.size)
    return Image.composite(picture, Image.new("RGB", picture.size, WHITE), mask)


def prepare_reference(
    image: Picture, size: VideoSize, fit: Fit = "letterbox", keep: np.ndarray | None = None
) -> Image.Image:
    """An image as the model shall see it: background whitened where there is a mask, then fitted to the video."""
    if keep is not None:
        image = whiten_background(image, keep)
    return FITS[fit](image, size.height, size.width)


def clean_picture(image: Picture) -> Image.Image:
    """Turn a picture upright by its EXIF orientation and lay what is transparent on white."""
    upright = ImageOps.exif_transpose(_to_pil(image)).convert("RGBA")
    canvas = Image.new("RGBA", upright.size, (*WHITE, 255))
    return Image.alpha_composite(canvas, upright).convert("RGB")


def encode_references(encode: Encode, images: Sequence[Picture], size: VideoSize) -> tuple[Tensor, ...]:
    """Letterbox each image to the video's size and encode it: a tuple of ``[1 16 1 H/8 W/8]``.

    Float tensors ``[1 3 1 H W]`` in -1..1 are taken as already letterboxed.
    """
    # One at a time: together they would be a video to the causal autoencoder, which folds four frames into one latent.
    return tuple(encode(_to_pixels(image, size)) for image in images)


def _to_pixels(image: Picture, size: VideoSize) -> Tensor:
    if not (isinstance(image, Tensor) and image.is_floating_point()):
        return letterbox(image, size.height, size.width)
    expected = (1, 3, 1, size.height, size.width)
    if tuple(image.shape) != expected:
        raise ShapeError(f"A reference of {tuple(image.shape)}; float pixels must be {expected}. Use letterbox first.")
    return image


def _to_pil(image: Picture) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    array = image.cpu().numpy() if isinstance(image, Tensor) else image
    if not isinstance(array, np.ndarray):
        raise DataError(f"An image of type {type(image).__name__}; we need PIL or uint8 [H W 3]. Open it first.")
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise DataError(
            f"An image array of {array.dtype} {array.shape}; references are PIL images or uint8 [H W 3]. "
            "Convert it first."
        )
    return Image.fromarray(array)


FITS: dict[Fit, Callable[[Picture, int, int], Image.Image]] = {"letterbox": letterbox_image, "crop": cropped_image}
