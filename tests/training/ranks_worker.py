"""Runs of ``CASES`` under torchrun: ``-m tests.training.ranks_worker FOLDER STEPS CASE ...``."""

import sys
from pathlib import Path

import torch.distributed as dist

from training.config import (
    CheckpointConfig,
    Config,
    DataConfig,
    MemoryConfig,
    ModelConfig,
    OptimizerConfig,
    ParallelConfig,
    RunConfig,
    ValidationConfig,
)
from training.train import train

from .small_run import samples, small_dit

LORA, FULL = ModelConfig("small", "lora", "fp32"), ModelConfig("small", "full", "fp32")
HALF_LORA, HALF_FULL = ModelConfig("small", "lora", "bf16"), ModelConfig("small", "full", "bf16")
CASES = {
    "lora ddp": (LORA, ParallelConfig()),
    "lora fsdp": (LORA, ParallelConfig("fsdp")),
    "lora sequence": (LORA, ParallelConfig(sequence_ranks=2)),
    "full ddp": (FULL, ParallelConfig()),
    "full fsdp": (FULL, ParallelConfig("fsdp")),
    "full hsdp": (FULL, ParallelConfig("fsdp", shard_ranks=1)),
    "full fsdp sequence": (FULL, ParallelConfig("fsdp", sequence_ranks=2)),
    "lora fsdp bf16": (HALF_LORA, ParallelConfig("fsdp")),
    "full fsdp bf16": (HALF_FULL, ParallelConfig("fsdp")),
    "full hsdp of four": (FULL, ParallelConfig("fsdp", shard_ranks=2)),
}
FOUR = "full hsdp of four"


def config_of(case: str, folder: Path, steps: int) -> Config:
    model, parallel = CASES[case]
    cache = str(folder / "cache")
    return Config(
        RunConfig(str(folder / case), steps, batch=4, seed=7, log_every=1),
        model,
        DataConfig(cache, cache, reference_dropout=0.2),
        optimizer=OptimizerConfig(lr=1e-3, ema=0.9, clip_norm=0.05),
        memory=MemoryConfig("blocks"),
        parallel=parallel,
        checkpoint=CheckpointConfig(every=3),
        validation=ValidationConfig(every=3, samples=3, sigmas=2),
    )


def main() -> None:
    dist.init_process_group("gloo")  # once for all runs: torchrun's store knows one meeting
    folder, steps = Path(sys.argv[1]), int(sys.argv[2])
    for case in sys.argv[3:]:
        config = config_of(case, folder, steps)
        assert train(config, samples(config), samples(config), small_dit())
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
