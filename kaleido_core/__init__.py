"""Kaleido: multi-subject reference video. The public API, and nothing else."""

from .checkpoints.load import load_dit, load_text_encoder, load_tokenizer, load_vae
from .config import KALEIDO_14B, DiTConfig, TextConfig, VAEConfig
from .dit.model import KaleidoDiT
from .dit.rope import apply_rotary, r_rope_positions, rotary_angles
from .generate import generate
from .offloading.block_swap import block_swap
from .references import encode_references, letterbox
from .sampling.sampler import sample
from .sampling.schedule import initial_noise, sigma_schedule
from .shapes import Conditioning, Step, VideoSize
from .text.encoder import UMT5Encoder
from .vae.model import WanVAE
from .video import write_video

__all__ = [
    "KALEIDO_14B",
    "Conditioning",
    "DiTConfig",
    "KaleidoDiT",
    "Step",
    "TextConfig",
    "UMT5Encoder",
    "VAEConfig",
    "VideoSize",
    "WanVAE",
    "apply_rotary",
    "block_swap",
    "encode_references",
    "generate",
    "initial_noise",
    "letterbox",
    "load_dit",
    "load_text_encoder",
    "load_tokenizer",
    "load_vae",
    "r_rope_positions",
    "rotary_angles",
    "sample",
    "sigma_schedule",
    "write_video",
]
