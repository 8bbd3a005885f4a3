"""What a clip is made of: the settings of one, and those a model was made for."""

import math
from dataclasses import dataclass

import torch

from .checkpoints.load import TINY
from .errors import ConfigError
from .quantization.quantize import FORMATS
from .sampling.schedule import check_seed, sigma_schedule
from .sampling.speed import speed_of
from .shapes import VideoSize

NEGATIVE_PROMPT = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，"
    "丑陋的，残缺的，多余的手指，画得不好的手部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，"
    "三条腿，背景人很多，倒着走"
)
VAE_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Defaults:
    """The settings a model was made for."""

    height: int
    width: int
    frames: int
    steps: int
    cfg: float
    shift: float
    fps: float
    negative: str
    reference_cfg: float = 1.0


DEFAULTS_14B = Defaults(512, 896, 81, 50, 6.0, 7.0, 16, NEGATIVE_PROMPT)
DEFAULTS_TINY = Defaults(128, 128, 17, 20, 2.0, 3.0, 8, "", reference_cfg=3.0)


def defaults_for(model: str) -> Defaults:
    """Settings for "tiny" or, for any path, the 14B model (SPEC 5)."""
    return DEFAULTS_TINY if model == TINY else DEFAULTS_14B


@dataclass(frozen=True)
class Request:
    """One clip to make. Sizes in pixels, ``seed`` from 0; ``references`` are paths as the user gave them.

    ``model`` is "tiny", a folder, or a DiT file; files of the other parts may be named, else they are looked for in
    the model's folder. ``reference_cfg`` is guidance by the references, 1 for none. ``attach_paths`` encodes the
    prompt with "@@path" behind it, as the official script does; ``clean_references`` turns pictures upright and lays
    transparency on white, which it does not. ``speed`` is one of ``SPEEDS``; all but "exact" change the clip a little,
    as do ``eight_bit`` (one of ``FORMATS``), the ``attention`` kernel "sage" and ``vae_dtype`` "bf16".
    ``loras`` are files, each with ":strength" behind it or not. ``compile``: the transformer's blocks by
    ``torch.compile``, which rounds otherwise.
    """

    prompt: str
    references: tuple[str, ...] = ()
    model: str = TINY
    vae: str | None = None
    text_encoder: str | None = None
    tokenizer: str | None = None
    height: int = DEFAULTS_TINY.height
    width: int = DEFAULTS_TINY.width
    frames: int = DEFAULTS_TINY.frames
    steps: int = DEFAULTS_TINY.steps
    cfg: float = DEFAULTS_TINY.cfg
    reference_cfg: float = 1.0
    shift: float = DEFAULTS_TINY.shift
    seed: int = 0
    negative: str = DEFAULTS_TINY.negative
    fps: float = DEFAULTS_TINY.fps
    attach_paths: bool = False
    clean_references: bool = False
    allow_extra_references: bool = False
    speed: str = "exact"
    eight_bit: str | None = None
    attention: str = "auto"
    vae_dtype: str = "fp32"
    loras: tuple[str, ...] = ()
    compile: bool = False

    def __post_init__(self) -> None:
        sigma_schedule(self.steps, self.shift)
        speed_of(self.speed)
        check_seed(self.seed)
        if self.eight_bit is not None and self.eight_bit not in FORMATS:
            raise ConfigError(f"eight_bit {self.eight_bit!r} is unknown; choose {', '.join(FORMATS)} or leave it out.")
        if self.vae_dtype not in VAE_DTYPES:
            raise ConfigError(f"vae_dtype {self.vae_dtype!r} is unknown; choose {' or '.join(VAE_DTYPES)}.")
        if not math.isfinite(self.cfg + self.reference_cfg) or not 0 < self.fps <= 240:
            raise ConfigError(
                f"cfg {self.cfg}, reference_cfg {self.reference_cfg}, fps {self.fps}: the first two are plain numbers, "
                "fps above 0, up to 240. Typical: 6, 1 and 16."
            )

    @property
    def size(self) -> VideoSize:
        return VideoSize(self.frames, self.height, self.width)

    @property
    def text(self) -> str:
        """What the text encoder reads."""
        return "@@".join((self.prompt, *self.references)) if self.attach_paths else self.prompt
