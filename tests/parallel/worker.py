"""One of several ranks: ``python -m tests.parallel.worker RESULT``. The first writes the largest errors it has seen.

The same model runs alone and shared, on the same inputs; the errors are those of the shared run.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

from kaleido_core import Conditioning, DiTConfig, KaleidoDiT, block_swap, initial_noise, sample, sigma_schedule
from kaleido_core.dit import block
from kaleido_core.errors import ConfigError
from kaleido_core.parallel.cfg import two_ranks
from kaleido_core.parallel.sequence import sequence_parallel
from kaleido_core.sampling.guidance import predict
from kaleido_core.sampling.step_cache import step_cache
from training.lora import LoRAConfig, add_lora

Case = tuple[tuple[int, int, int], list[tuple[int, int]]]  # latent (T, H, W), references' (h, w)
EVEN: Case = ((2, 8, 4), [(8, 4), (8, 4)])  # 32 tokens
UNEVEN: Case = ((3, 6, 10), [(6, 10), (2, 6), (10, 2)])  # 71 tokens
FEWER_THAN_RANKS: Case = ((1, 2, 6), [])  # 3 tokens


def model(heads: int = 4) -> KaleidoDiT:
    torch.manual_seed(0)
    return KaleidoDiT(DiTConfig(3, 12 * heads, heads, 64, 16)).eval()


def values(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def run(dit: KaleidoDiT, case: Case) -> Tensor:
    size, references = case
    held = [values(1, 16, 1, *side, seed=10 + index) for index, side in enumerate(references)]
    return dit(values(2, 16, *size, seed=1), torch.tensor([0.3, 0.8]), values(2, 5, 16, seed=2), held)


def largest(ours: list[Tensor], theirs: list[Tensor]) -> float:
    return max((a - b).abs().max().item() for a, b in zip(ours, theirs, strict=True))


def velocity(case: Case) -> float:
    dit, block.BATCH_ROWS = model(), 8  # queries a few at a time, as long clips have them
    with torch.no_grad():
        alone = run(dit, case)
        with sequence_parallel(dit):
            shared = run(dit, case)
        assert torch.equal(run(dit, case), alone), "afterwards the model is as before"
    return largest([shared], [alone])


def gradients(dit: KaleidoDiT, case: Case) -> list[Tensor]:
    trained = [parameter for parameter in dit.parameters() if parameter.requires_grad]
    return list(torch.autograd.grad(run(dit, case).square().sum(), trained))


def relative(ours: list[Tensor], theirs: list[Tensor]) -> float:
    """Largest error over the largest number of each weight, so that small ones count."""
    scales = [gradient.abs().max().clamp(min=1e-6) for gradient in theirs]
    return max(largest([a / scale], [b / scale]) for a, b, scale in zip(ours, theirs, scales, strict=True))


def compare_gradients(dit: KaleidoDiT, case: Case) -> float:
    alone = gradients(dit, case)
    with sequence_parallel(dit):
        shared = gradients(dit, case)
    for gradient in shared:
        dist.all_reduce(gradient)
    return relative([gradient / dist.get_world_size() for gradient in shared], alone)


def with_lora() -> KaleidoDiT:
    dit = model()
    for parameter in add_lora(dit, LoRAConfig(4, 8.0, ("all",)), torch.Generator().manual_seed(3)):
        torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(4))
    return dit


def sharded_gradients() -> float:
    """Of a LoRA whose weights FSDP has cut as well; it takes the mean over the ranks itself."""
    alone, dit = gradients(with_lora(), UNEVEN), with_lora()
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for part in (*dit.blocks, dit):
        fully_shard(part, mesh=mesh)
    with sequence_parallel(dit):
        run(dit, UNEVEN).square().sum().backward()
    shared = [cast(DTensor, p.grad).full_tensor() for p in dit.parameters() if p.requires_grad]
    return relative(shared, alone)


def lora_gradients() -> float:
    """Through checkpointed blocks that visit the device."""
    dit = with_lora()
    for layer in dit.blocks:
        forward = layer.forward
        layer.forward = lambda *inputs, forward=forward: checkpoint(forward, *inputs, use_reentrant=False)
    with block_swap(dit, 1, "cpu"):
        return compare_gradients(dit, UNEVEN)


def guided() -> float:
    """A clip whose branches run on two ranks; pairs of ranks each make the same one."""
    mine = cast(dist.ProcessGroup, dist.new_subgroups(2)[0])
    dit, noise = model(), initial_noise((1, 16, 2, 4, 4), 0)
    cond, uncond = (Conditioning(values(1, 5, 16, seed=seed)) for seed in (5, 6))
    sigmas = sigma_schedule(3, 3.0)
    alone = sample(dit, noise, sigmas, cond, uncond)
    guidance = two_ranks(predict, mine)
    return largest([sample(dit, noise, sigmas, cond, uncond, guidance=guidance)], [alone])


def refusals() -> list[str]:
    """Three heads, and a step cache."""
    said = []
    for heads in (3, 4):
        dit = model(heads)
        try:
            with torch.no_grad(), sequence_parallel(dit), step_cache(dit, 0.1):
                run(dit, EVEN)
        except ConfigError as error:
            said.append(str(error))
    return said


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    seen: dict[str, float] = {}
    laws: dict[str, Callable[[], float]] = {
        "velocity even": lambda: velocity(EVEN),
        "velocity uneven": lambda: velocity(UNEVEN),
        "velocity few": lambda: velocity(FEWER_THAN_RANKS),
        "gradients even": lambda: compare_gradients(model(), EVEN),
        "gradients uneven": lambda: compare_gradients(model(), UNEVEN),
        "gradients lora": lora_gradients,
        "gradients sharded": sharded_gradients,
        "guided": guided,
    }
    for name, law in laws.items():
        error = torch.tensor(law())
        dist.all_reduce(error, dist.ReduceOp.MAX)
        seen[name] = error.item()
    if dist.get_rank() == 0:
        Path(sys.argv[1]).write_text(json.dumps({"errors": seen, "refusals": refusals()}))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
