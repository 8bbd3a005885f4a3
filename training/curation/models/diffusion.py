"""A diffusion model paints what a mask covers: backgrounds behind subjects, and new ones around them."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from kaleido_core.errors import ConfigError

from ..packages import load
from .kinds import Pixels
from .local import device, half

STEPS, SEED = 28, 0
SIDE = 1024  # pixels of the longer side, at most
WHOLE = 16  # sides are multiples of this
EMPTY = "an empty place, nobody and nothing in it"


class Diffusion:
    """An ``Inpainter`` by a pipeline of diffusers, such as FLUX.1 Fill; what the mask leaves stays as it is."""

    def __init__(self, folder: Path) -> None:
        pipelines = load("diffusers", "diffusers")
        try:
            name = pipelines.DiffusionPipeline.load_config(folder, local_files_only=True)["_class_name"]
            # diffusers counts no pipeline for filling as one for inpainting: it is named by its own class.
            kind = getattr(pipelines, name) if "Fill" in name else pipelines.AutoPipelineForInpainting
            self._pipeline = kind.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, torch_dtype=half()
            ).to(device())
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{folder} cannot be read as an inpainting pipeline of diffusers ({error}). "
                "Name a folder with model_index.json, or inpainter = telea."
            ) from error
        self._pipeline.set_progress_bar_config(disable=True)

    def fill(self, picture: Pixels, mask: Pixels, prompt: str = "") -> Pixels:
        height, width = (_whole(side * min(1.0, SIDE / max(picture.shape[:2]))) for side in picture.shape[:2])
        image, hole = (Image.fromarray(array).resize((width, height)) for array in (picture, mask))
        painted = self._pipeline(
            prompt=prompt or EMPTY,
            image=image,
            mask_image=hole,
            height=height,
            width=width,
            strength=1.0,  # some default to less, which leaves a ghost of what was there
            num_inference_steps=STEPS,
            generator=torch.Generator().manual_seed(SEED),
        ).images[0]
        new = np.asarray(painted.convert("RGB").resize((picture.shape[1], picture.shape[0])), np.float32)
        share = (mask.astype(np.float32) / 255)[..., None]
        return np.rint(new * share + picture * (1 - share)).astype(np.uint8)


def _whole(side: float) -> int:
    return max(WHOLE, round(side / WHOLE) * WHOLE)
