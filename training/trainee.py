"""The model that learns: loaded, frozen or not, placed on its device, and what it computes a loss with."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

from kaleido_core import DiTConfig, KaleidoDiT, block_swap, load_dit
from kaleido_core.quantization.quantize import quantize

from .activations import save_activations
from .batches import Draw, seed_of
from .config import Config
from .distributed import Ranks, share_weights, sharing_clips
from .lora import add_lora
from .step import Batch, flow_matching_losses


@dataclass(frozen=True)
class Trainee:
    """``parameters`` are those that learn, by name. ``autocast``: compute in bfloat16 what lies in float32."""

    dit: KaleidoDiT
    parameters: dict[str, nn.Parameter]
    device: torch.device
    autocast: bool

    def losses(self, batch: Batch, draw: Draw) -> Tensor:
        """Float32 ``[B]``, from a batch and noise on the CPU."""
        latent, context = batch.latent.to(self.device), batch.context.to(self.device)
        references = tuple(reference.to(self.device) for reference in batch.references)
        noise, sigma = draw.noise.to(self.device), draw.sigma.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            return flow_matching_losses(self.dit, Batch(latent, context, references), noise, sigma)


@contextmanager
def trainee_at_work(config: Config, ranks: Ranks, dit: KaleidoDiT | None = None) -> Iterator[Trainee]:
    """While open, the model of ``config`` (or ``dit``, which stands for it) can learn on this rank's device."""
    model, memory = config.model, config.memory
    shared = config.parallel.strategy == "fsdp" and ranks.count > 1
    if shared:
        dit = _load_shared(config, ranks, dit)
    else:
        dit = (dit or load_dit(model.weights, dtype=_dtype(config))).to(_dtype(config))
        save_activations(dit, memory, ranks.device)
        if model.base in ("fp8", "int8"):
            _quantize(dit, model.base, ranks.device)
        if memory.resident_blocks < 0:
            dit.to(ranks.device)
    if model.method == "lora":
        add_lora(dit, config.lora, torch.Generator().manual_seed(seed_of(config.run.seed, 0)))
    else:
        dit.requires_grad_(True)
    with ExitStack() as stack:
        if memory.resident_blocks >= 0:
            stack.enter_context(block_swap(dit, memory.resident_blocks, ranks.device))
        stack.enter_context(sharing_clips(dit, ranks))
        parameters = {name: p for name, p in dit.named_parameters() if p.requires_grad}
        autocast = model.method == "full" and model.base == "bf16" and not shared
        yield Trainee(dit, parameters, ranks.device, autocast)


def _dtype(config: Config) -> torch.dtype:
    """Of the weights as they lie in memory: those that learn are float32."""
    whole = config.model.method == "full" or config.model.base == "fp32"
    return torch.float32 if whole else torch.bfloat16


def _quantize(dit: KaleidoDiT, form: str, device: torch.device) -> None:
    """Block by block on the device, which is fast and has room for one."""
    for block in dit.blocks:
        alone = nn.Module()
        alone.blocks = nn.ModuleList([block.to(device)])
        quantize(alone, form, device)
        block.to("cpu")


def _load_shared(config: Config, ranks: Ranks, dit: KaleidoDiT | None) -> KaleidoDiT:
    """The first rank reads the weights and hands everyone its part: no other holds a whole copy."""
    dtype = _dtype(config)
    first = (dit or load_dit(config.model.weights, dtype=dtype)).to(dtype) if ranks.first else None
    sizes: list[DiTConfig | None] = [first.config if first else None]
    dist.broadcast_object_list(sizes, 0)
    assert sizes[0] is not None
    with torch.device("meta"):
        dit = KaleidoDiT(sizes[0], dtype=dtype)
    save_activations(dit, config.memory, ranks.device)
    share_weights(dit, config, ranks)
    dit.to_empty(device=ranks.device)
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(dit, first.state_dict() if first else {}, options=options)
    return dit
