"""KaleidoDiT: from a noisy latent, a noise level, text and references to a velocity (SPEC 3)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..config import DiTConfig
from ..errors import ShapeError
from ..shapes import Grid, check_reference_count
from .block import Block
from .layers import Float32Linear, modulated_norm
from .patchify import PatchEmbedding, patch_grid, unpatchify
from .rope import r_rope_positions, rotary_angles


class Head(nn.Module):
    """The last norm, modulation and projection, in float32."""

    def __init__(self, config: DiTConfig, device: torch.device | str | None, dtype: torch.dtype | None):
        super().__init__()
        self.eps = config.eps
        patch_width = config.latent_channels * torch.Size(config.patch_size).numel()
        self.modulation = nn.Parameter(torch.empty(1, 2, config.width, device=device, dtype=dtype))
        nn.init.normal_(self.modulation, std=config.width**-0.5)
        self.head = Float32Linear(config.width, patch_width, device=device, dtype=dtype)

    def forward(self, tokens: Tensor, time: Tensor) -> Tensor:
        """``[B N D]`` and the time embedding ``[B D]`` -> float32 ``[B N P]``."""
        shift, scale = (self.modulation.float() + time[:, None]).unsqueeze(2).unbind(1)
        return self.head(modulated_norm(tokens.float(), shift, scale, self.eps))


class KaleidoDiT(nn.Module):
    """Wan 2.1's video transformer that also reads reference latents; parameter names are Wan's."""

    def __init__(
        self, config: DiTConfig, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.config = config
        width, place = config.width, {"device": device, "dtype": dtype}
        self.patch_embedding = PatchEmbedding(config, **place)
        self.text_embedding = nn.Sequential(
            nn.Linear(config.text_width, width, **place), nn.GELU(approximate="tanh"), nn.Linear(width, width, **place)
        )
        self.time_embedding = nn.Sequential(
            Float32Linear(config.frequency_width, width, **place), nn.SiLU(), Float32Linear(width, width, **place)
        )
        self.time_projection = nn.Sequential(nn.SiLU(), Float32Linear(width, 6 * width, **place))
        self.blocks = nn.ModuleList(Block(config, **place) for _ in range(config.num_layers))
        self.head = Head(config, **place)

    def forward(
        self,
        latent: Tensor,
        sigma: Tensor,
        context: Tensor,
        references: Sequence[Tensor] = (),
        allow_extra_references: bool = False,
    ) -> Tensor:
        """Predict the velocity (noise - clean) as float32 ``[B 16 T H W]``.

        ``latent`` ``[B 16 T H W]``; ``sigma`` ``[B]`` in 0..1; ``context`` ``[B L D_text]``, zero rows included;
        ``references`` clean latents ``[B 16 1 h w]`` or ``[1 16 1 h w]``, none = Wan text to video.
        Raises ``ShapeError`` for odd latent sides, other reference shapes, or more than three references unless
        ``allow_extra_references``.
        """
        check_reference_count(len(references), allow_extra_references)
        grid = patch_grid(latent, self.config.patch_size)
        reference_grids = self._reference_grids(references, latent.shape[0])
        tokens = self._embed(latent, references)
        positions = r_rope_positions(grid, reference_grids, device=latent.device)
        angles = rotary_angles(positions, self.config.head_width)
        rotation = angles.cos(), angles.sin()

        time = self.time_embedding(timestep_embedding(1000 * sigma.float(), self.config.frequency_width))
        modulation = self.time_projection(time).unflatten(1, (6, -1))  # [B 6 D]
        context = self.text_embedding(context.to(tokens.dtype))
        for block in self.blocks:
            tokens = block(tokens, modulation, context, rotation)

        video = tokens[:, -torch.Size(grid).numel() :]
        return unpatchify(self.head(video, time), grid, self.config.patch_size)

    def _reference_grids(self, references: Sequence[Tensor], batch: int) -> list[Grid]:
        for index, reference in enumerate(references):
            channels = self.config.latent_channels
            if reference.shape[0] not in (1, batch) or tuple(reference.shape[1:3]) != (channels, 1):
                raise ShapeError(
                    f"Reference {index + 1} is {tuple(reference.shape)}; "
                    f"it must be [{batch} or 1, {channels}, 1, h, w]. "
                    "Encode each image alone, as a clip of one frame."
                )
        return [patch_grid(reference, self.config.patch_size) for reference in references]

    def _embed(self, latent: Tensor, references: Sequence[Tensor]) -> Tensor:
        """All tokens ``[B N D]``, references first."""
        embedded = [self.patch_embedding(reference).expand(latent.shape[0], -1, -1) for reference in references]
        return torch.cat([*embedded, self.patch_embedding(latent)], dim=1)


def timestep_embedding(timestep: Tensor, width: int) -> Tensor:
    """``[B]`` in 0..1000 -> float32 ``[B width]``: cosines, then sines, of angles taken in float64."""
    half = width // 2
    place = torch.device("cpu") if timestep.device.type == "mps" else timestep.device  # mps has no float64
    frequencies = 10000.0 ** (-torch.arange(half, dtype=torch.float64, device=place) / half)
    angles = torch.outer(timestep.to(place).double(), frequencies)
    return torch.cat([angles.cos(), angles.sin()], dim=1).float().to(timestep.device)
