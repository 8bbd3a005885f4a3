"""Pictures between the host's way, IMAGE ``[B H W 3]`` in 0..1, and ours."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def to_picture(image: Tensor) -> np.ndarray:
    """The host's IMAGE ``[H W C]`` in 0..1 -> uint8 ``[H W 3]``; what is transparent becomes white."""
    image = image.cpu().float().clamp(0, 1)
    if image.shape[-1] == 4:
        image = image[..., :3] * image[..., 3:] + 1 - image[..., 3:]
    return (image.expand(*image.shape[:2], 3) * 255).round().byte().numpy()


def to_image(picture: Image.Image) -> Tensor:
    """The other way, as a batch of one."""
    return torch.from_numpy(np.asarray(picture, np.float32) / 255)[None]


def from_images(images: Tensor) -> Tensor:
    """An IMAGE batch as the clip that our autoencoder would give, ``[1 3 F H W]`` in -1..1."""
    return images[..., :3].movedim(-1, 0)[None] * 2 - 1
