"""All that a run can be told, section by section as in its TOML file (``config_file.py`` reads and writes it).

A value out of range raises ``ConfigError``; so does one section that another contradicts.
"""

from dataclasses import dataclass, field
from typing import Literal

from kaleido_core.errors import ConfigError
from kaleido_core.shapes import MAX_REFERENCES

from .lora import LoRAConfig


def require(condition: bool, got: str, need: str) -> None:
    if not condition:
        raise ConfigError(f"{got}: {need}.")


@dataclass(frozen=True)
class RunConfig:
    """``batch`` samples make one step, over all ranks; each rank takes ``micro_batch`` at a time."""

    folder: str
    steps: int
    batch: int = 1
    micro_batch: int = 1
    seed: int = 0
    log_every: int = 10
    tensorboard: bool = False

    def __post_init__(self) -> None:
        require(bool(self.folder), "folder is empty", "name the folder to write to")
        require(self.steps >= 1 and self.log_every >= 1, f"steps {self.steps}, log_every {self.log_every}", "1 or more")
        require(
            1 <= self.micro_batch <= self.batch and self.batch % self.micro_batch == 0,
            f"batch {self.batch} in micro batches of {self.micro_batch}",
            "a batch is one or more whole micro batches",
        )
        require(0 <= self.seed < 2**32, f"seed {self.seed}", "0 or more, below 2**32")


@dataclass(frozen=True)
class ModelConfig:
    """``weights``: "tiny", a folder or a file; Kaleido's, or Wan's text to video to train on from.

    ``method`` "lora" freezes them in the ``base`` format and trains what ``[lora]`` says; "full" trains all of them,
    in float32, and computes in ``base``.
    """

    weights: str
    method: Literal["lora", "full"] = "lora"
    base: Literal["bf16", "fp32", "fp8", "int8"] = "bf16"

    def __post_init__(self) -> None:
        eight_bits = self.base in ("fp8", "int8")
        require(not (eight_bits and self.method == "full"), f"full training in {self.base}", "take bf16 or fp32")


@dataclass(frozen=True)
class DataConfig:
    """``cache`` and ``held_out`` are folders that ``training.cache`` wrote; ``held_out`` "" means no eval loss.

    ``sample_references``: a random number of them, one at least. Those of a micro batch have the same number.
    """

    cache: str
    held_out: str = ""
    caption_dropout: float = 0.1
    reference_dropout: float = 0.0
    shuffle_references: bool = False
    sample_references: bool = False
    max_references: int = MAX_REFERENCES

    def __post_init__(self) -> None:
        for name in ("caption_dropout", "reference_dropout"):
            rate = getattr(self, name)
            require(0 <= rate <= 1, f"{name} {rate}", "a share from 0 to 1")
        limit = self.max_references
        require(0 <= limit <= MAX_REFERENCES, f"max_references {limit}", f"0 to {MAX_REFERENCES}")


@dataclass(frozen=True)
class NoiseConfig:
    """How noise levels are drawn (SPEC 9), and pushed towards 1: by the size of a frame, or by ``fixed_shift``."""

    distribution: Literal["logit_normal", "uniform"] = "logit_normal"
    mean: float = 0.0
    std: float = 1.0
    shift: Literal["by_size", "fixed"] = "by_size"
    fixed_shift: float = 7.0

    def __post_init__(self) -> None:
        require(self.std > 0, f"std {self.std}", "above 0; the official one is 1")
        require(self.fixed_shift > 0, f"fixed_shift {self.fixed_shift}", "above 0; 1 changes nothing")


@dataclass(frozen=True)
class OptimizerConfig:
    """``decay`` "official" spares biases and norm3; "matrices" also norms and modulation. 0 = no clipping, no EMA."""

    name: Literal["adamw", "adamw8bit", "adafactor"] = "adamw"
    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 1e-4
    decay: Literal["official", "matrices"] = "official"
    clip_norm: float = 1.0
    ema: float = 0.0

    def __post_init__(self) -> None:
        require(self.lr > 0 and self.eps > 0, f"lr {self.lr}, eps {self.eps}", "both are above 0")
        require(all(0 <= beta < 1 for beta in self.betas), f"betas {self.betas}", "two numbers from 0, below 1")
        require(self.weight_decay >= 0, f"weight_decay {self.weight_decay}", "0 or more")
        require(self.clip_norm >= 0, f"clip_norm {self.clip_norm}", "above 0, or 0 for none")
        usual = (self.betas, self.eps) == (OptimizerConfig.betas, OptimizerConfig.eps)
        require(
            usual or self.name != "adafactor",
            f"betas {self.betas}, eps {self.eps} with adafactor",
            "it has neither; leave them out, or take adamw",
        )
        require(0 <= self.ema < 1, f"ema {self.ema}", "from 0 (none), below 1; typical 0.999")


@dataclass(frozen=True)
class ScheduleConfig:
    """``warmup`` "official": 5 % of the rate for ``warmup_steps``, then all of it. ``final``: its share at the end."""

    warmup: Literal["official", "linear"] = "linear"
    warmup_steps: int = 100
    kind: Literal["constant", "cosine", "linear"] = "constant"
    final: float = 0.0

    def __post_init__(self) -> None:
        require(self.warmup_steps >= 0, f"warmup_steps {self.warmup_steps}", "0 or more")
        require(0 <= self.final <= 1, f"final {self.final}", "a share from 0 to 1")


@dataclass(frozen=True)
class MemoryConfig:
    """What is kept on the device. ``activations.py`` says what each ``checkpointing`` costs.

    ``resident_blocks``: so many of the frozen blocks lie there, the others visit; -1 for all.
    """

    checkpointing: Literal["none", "attention", "blocks", "rows"] = "blocks"
    offload_activations: bool = False
    resident_blocks: int = -1

    def __post_init__(self) -> None:
        require(self.resident_blocks >= -1, f"resident_blocks {self.resident_blocks}", "0 or more, or -1 for all")
        require(
            not self.offload_activations or self.checkpointing in ("blocks", "rows"),
            f"offload_activations with checkpointing {self.checkpointing!r}",
            "only a block's inputs are offloaded; take blocks or rows",
        )
        require(
            self.resident_blocks < 0 or self.checkpointing != "none",
            "visiting blocks without checkpointing",
            "a visitor's weights are gone by the backward; take blocks or rows",
        )


@dataclass(frozen=True)
class ParallelConfig:
    """``strategy`` "ddp": every rank holds all weights; "fsdp": they share them.

    ``shard_ranks`` share one copy of the weights (0 = all ranks; fewer is HSDP); ``sequence_ranks`` share each clip.
    """

    strategy: Literal["ddp", "fsdp"] = "ddp"
    shard_ranks: int = 0
    sequence_ranks: int = 1

    def __post_init__(self) -> None:
        require(self.shard_ranks >= 0, f"shard_ranks {self.shard_ranks}", "0 for all, or 1 or more")
        require(
            not self.shard_ranks or self.strategy == "fsdp",
            f"shard_ranks {self.shard_ranks} with ddp",
            "there every rank holds all weights; take fsdp, or leave shard_ranks out",
        )
        require(self.sequence_ranks >= 1, f"sequence_ranks {self.sequence_ranks}", "1 or more")


@dataclass(frozen=True)
class CheckpointConfig:
    """Every so many steps; the last ``keep`` stay. ``weights``: also as a file that ComfyUI and the exporter load."""

    every: int = 500
    keep: int = 3
    weights: bool = True

    def __post_init__(self) -> None:
        require(self.every >= 1 and self.keep >= 1, f"every {self.every}, keep {self.keep}", "both are 1 or more")


@dataclass(frozen=True)
class ClipConfig:
    """A clip to generate while training: ``references`` are paths of pictures."""

    prompt: str
    references: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class ValidationConfig:
    """Every so many steps, 0 for never. ``vae`` and the others: where they are not beside the weights.

    Sizes 0 are the model's own; ``sigmas`` levels of noise are tried on each of ``samples`` held-out samples.
    """

    every: int = 0
    samples: int = 16
    sigmas: int = 4
    steps: int = 0
    height: int = 0
    width: int = 0
    frames: int = 0
    vae: str = ""
    text_encoder: str = ""
    tokenizer: str = ""
    clips: tuple[ClipConfig, ...] = ()

    def __post_init__(self) -> None:
        require(self.every >= 0, f"every {self.every}", "0 for never, or 1 or more")
        require(self.samples >= 1 and self.sigmas >= 1, f"samples {self.samples}, sigmas {self.sigmas}", "1 or more")
        sizes = (self.steps, self.height, self.width, self.frames)
        require(min(sizes) >= 0, f"steps, height, width, frames {sizes}", "0 for the model's own, or more")


@dataclass(frozen=True)
class Config:
    """A whole run."""

    run: RunConfig
    model: ModelConfig
    data: DataConfig
    lora: LoRAConfig = field(default_factory=LoRAConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)

    def __post_init__(self) -> None:
        streamed, shared = self.memory.resident_blocks >= 0, self.parallel.strategy == "fsdp"
        require(
            not streamed or self.model.method == "lora",
            "resident_blocks with full training",
            "blocks that are trained cannot visit; take method lora, or fsdp over more ranks",
        )
        require(
            not (shared and streamed),
            "fsdp with resident_blocks",
            "weights are shared among ranks or visit from the host, not both; take ddp, or resident_blocks -1",
        )
        require(
            not (shared and self.model.base in ("fp8", "int8")),
            f"fsdp with base {self.model.base}",
            "only plain weights are shared; take bf16, or ddp",
        )
        require(
            not (shared and self.model.method == "full" and self.optimizer.name != "adamw"),
            f"fsdp with {self.optimizer.name}",
            "it cannot work on parts of weights; take adamw",
        )
        require(
            self.validation.every > 0 or not (self.data.held_out or self.validation.clips),
            "data.held_out or validation.clips with validation.every 0",
            "they would never be used; set validation.every to some steps, or leave them out",
        )
