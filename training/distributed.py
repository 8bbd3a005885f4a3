"""Several processes as one trainer: who they are, how they share weights, clips and sums."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from kaleido_core import KaleidoDiT
from kaleido_core.errors import ConfigError
from kaleido_core.parallel.sequence import sequence_parallel

from .config import Config, ParallelConfig, RunConfig


@dataclass(frozen=True)
class Ranks:
    """This process among all. ``data_count`` groups of ranks each have samples of their own; this is ``data_index``.

    ``clip`` is the group that shares each clip, None for one rank alone; ``files`` is for writing beside the training.
    """

    index: int
    count: int
    device: torch.device
    data_index: int
    data_count: int
    clip: dist.ProcessGroup | None = None
    files: dist.ProcessGroup | None = None

    @property
    def first(self) -> bool:
        return self.index == 0


@contextmanager
def joined(config: ParallelConfig) -> Iterator[Ranks]:
    """Meet the other processes of ``torchrun``, unless the caller has; without it, be the only one."""
    cuda = torch.cuda.is_available()
    kind = "cuda" if cuda else "cpu"
    if "RANK" not in os.environ:
        _check_split(config, 1)
        yield Ranks(0, 1, torch.device(kind), 0, 1)
        return
    device = torch.device(kind, int(os.environ["LOCAL_RANK"])) if cuda else torch.device(kind)
    if cuda:
        torch.cuda.set_device(device)
    # gloo beside nccl: some of what is exchanged lies on the host.
    ours = not dist.is_initialized()
    if ours:
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", device_id=device if cuda else None)
    try:
        index, count, share = dist.get_rank(), dist.get_world_size(), config.sequence_ranks
        _check_split(config, count)
        clip = None
        if share > 1:
            clip = init_device_mesh(kind, (count // share, share), mesh_dim_names=("data", "clip"))["clip"].get_group()
        files = dist.new_group(backend="gloo")
        yield Ranks(index, count, device, index // share, count // share, clip, cast(dist.ProcessGroup, files))
    finally:
        if ours:
            dist.destroy_process_group()


def _check_split(config: ParallelConfig, count: int) -> None:
    for name in ("sequence_ranks", "shard_ranks"):
        share = getattr(config, name)
        if share and count % share:
            raise ConfigError(
                f"[parallel] {name} {share} with {count} processes: groups of it must use all of them. "
                "Start a multiple with torchrun --nproc-per-node, or change it."
            )


def check_batch(config: RunConfig, ranks: Ranks) -> None:
    """Raises ``ConfigError`` unless the ranks can share a batch equally."""
    least = config.micro_batch * ranks.data_count
    if config.batch % least:
        raise ConfigError(
            f"[run] batch {config.batch} does not divide into micro batches of {config.micro_batch} on "
            f"{ranks.data_count} ranks. Make it a multiple of {least}."
        )


def share_weights(dit: KaleidoDiT, config: Config, ranks: Ranks) -> None:
    """FSDP2: each rank holds a part of every weight, and gathers a block's for as long as it computes.

    Weights keep their dtype, what is computed has that of ``model.base``, sums of gradients are float32. Adapters that
    are added afterwards are not shared: they are few.
    """
    mesh = _mesh(config.parallel, ranks)
    compute = torch.float32 if config.model.base == "fp32" else torch.bfloat16
    # Inputs are not cast: modulation and rotation are float32 on purpose.
    policy = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for block in dit.blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(dit, mesh=mesh, mp_policy=policy)


def _mesh(config: ParallelConfig, ranks: Ranks) -> DeviceMesh:
    share = config.shard_ranks or ranks.count
    if share == ranks.count:
        return init_device_mesh(ranks.device.type, (ranks.count,))
    names = ("replicate", "shard")
    return init_device_mesh(ranks.device.type, (ranks.count // share, share), mesh_dim_names=names)


@contextmanager
def sharing_clips(dit: KaleidoDiT, ranks: Ranks) -> Iterator[None]:
    """While open, the ranks of a clip's group share its tokens."""
    if ranks.clip is None:
        yield
        return
    with sequence_parallel(dit, ranks.clip):
        yield


def average_gradients(parameters: Iterable[nn.Parameter], ranks: Ranks) -> None:
    """Replace each gradient by its mean over the ranks, in one exchange; FSDP has done so with those it shares."""
    if ranks.count == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None and not isinstance(p.grad, DTensor)]
    if not gradients:
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients]) / ranks.count
    dist.all_reduce(flat)
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def total(values: Tensor, ranks: Ranks) -> Tensor:
    """The sum over the data groups, on the CPU. All ranks of a clip give the same."""
    if ranks.count == 1:
        return values.cpu()
    values = values.to(ranks.device, torch.float64) * (ranks.data_count / ranks.count)
    dist.all_reduce(values)
    return values.cpu()


def gather(values: list[str], ranks: Ranks) -> list[str]:
    """What any rank has to say, in order, each thing once."""
    if ranks.count == 1:
        return values
    everyone: list[list[str]] = [[] for _ in range(ranks.count)]
    dist.all_gather_object(everyone, values)
    return list(dict.fromkeys(value for said in everyone for value in said))


def barrier(ranks: Ranks) -> None:
    if ranks.count > 1:
        dist.barrier()
