"""LoRA: a frozen transformer, and beside its linear layers thin pairs of matrices that learn.

The base keeps its names and its class. Each chosen layer gets two children, ``lora_A`` ``[rank in]`` and ``lora_B``
``[out rank]``, so that names are those of LoRA files: ``blocks.0.self_attn.q.lora_A.weight``.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kaleido_core import KaleidoDiT
from kaleido_core.errors import CheckpointError, ConfigError
from kaleido_core.quantization.linear import EightBitLinear

ATTENTION = tuple(f"{part}.{name}" for part in ("self_attn", "cross_attn") for name in "qkvo")
LAYERS = (*ATTENTION, "ffn.0", "ffn.2")  # the linear layers of a block, by Wan's names
PRESETS = {"attention": ATTENTION, "all": LAYERS}
SHOWN = 5


@dataclass(frozen=True)
class LoRAConfig:
    """``targets``: layers of every block, or presets. A layer's change is ``alpha / rank * lora_B @ lora_A``."""

    rank: int = 16
    alpha: float = 16.0
    targets: tuple[str, ...] = ("attention",)

    def __post_init__(self) -> None:
        unknown = [target for target in self.targets if target not in (*PRESETS, *LAYERS)]
        if unknown or not self.targets:
            raise ConfigError(
                f"LoRA targets {unknown or 'none'}; known are {', '.join((*PRESETS, *LAYERS))}. Choose from these."
            )
        if self.rank < 1 or not (math.isfinite(self.alpha) and self.alpha > 0):
            raise ConfigError(
                f"LoRA of rank {self.rank}, alpha {self.alpha}: a rank from 1 and an alpha above 0 are needed. "
                "Typical: 16 and 16."
            )

    @property
    def layers(self) -> tuple[str, ...]:
        """The targets with presets spelt out, in the order of a block."""
        chosen = {layer for target in self.targets for layer in PRESETS.get(target, (target,))}
        return tuple(layer for layer in LAYERS if layer in chosen)


class Factor(nn.Linear):
    """One of the two matrices. It computes in the dtype of the activations, whatever dtype it learns in."""

    def __init__(self, weight: Tensor, alpha: float) -> None:
        super().__init__(weight.shape[1], weight.shape[0], bias=False, device="meta")
        self.weight, self.alpha = nn.Parameter(weight), alpha

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


def add_lora(
    dit: KaleidoDiT, config: LoRAConfig, generator: torch.Generator, dtype: torch.dtype = torch.float32
) -> list[nn.Parameter]:
    """Freeze ``dit`` and give it adapters of ``dtype``, in place; returns what is to be trained.

    ``lora_A`` is drawn from the CPU ``generator``, ``lora_B`` is zero: at first nothing changes. ``quantize`` and
    ``load_dit`` come before this, ``block_swap`` and compilation after. Raises ``ConfigError`` if there is one already.
    """
    if any(factors_of(dit)):
        raise ConfigError("This model has a LoRA already; one at a time is trained. Load the model anew.")
    dit.requires_grad_(False)
    for block in dit.blocks:
        for name in config.layers:
            _adapt(block.get_submodule(name), config, generator, dtype)
    return [parameter for _, *factors in factors_of(dit) for factor in factors for parameter in factor.parameters()]


def _adapt(layer: nn.Module, config: LoRAConfig, generator: torch.Generator, dtype: torch.dtype) -> None:
    assert isinstance(layer, nn.Linear | EightBitLinear)
    (outputs, inputs), device = layer.weight.shape, layer.weight.device
    # The range of Kaiming's rule as nn.Linear has it: 1 / sqrt(inputs).
    down = (2 * torch.rand(config.rank, inputs, generator=generator) - 1) / math.sqrt(inputs)
    layer.add_module("lora_A", Factor(down.to(device, dtype), config.alpha))
    layer.add_module("lora_B", Factor(torch.zeros(outputs, config.rank, device=device, dtype=dtype), config.alpha))
    layer.register_forward_hook(_add_change)


def _add_change(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    down, up = _factors(layer)
    return output + up(down(inputs[0]) * (down.alpha / down.out_features))


def _factors(layer: nn.Module) -> tuple[Factor, Factor]:
    return layer.lora_A, layer.lora_B  # pyright: ignore[reportReturnType]


def factors_of(dit: nn.Module) -> Iterator[tuple[str, Factor, Factor]]:
    """Name, ``lora_A`` and ``lora_B`` of each layer that has them."""
    return ((name, *_factors(layer)) for name, layer in dit.named_modules() if hasattr(layer, "lora_A"))


def lora_state(dit: nn.Module) -> dict[str, Tensor]:
    """The adapters as a LoRA file has them: ``X.lora_A.weight``, ``X.lora_B.weight`` and the number ``X.alpha``.

    The matrices share memory with the model, as in ``state_dict``; under FSDP they are its shards.
    """
    state: dict[str, Tensor] = {}
    for name, down, up in factors_of(dit):
        state[f"{name}.lora_A.weight"] = down.weight.detach()
        state[f"{name}.lora_B.weight"] = up.weight.detach()
        state[f"{name}.alpha"] = torch.tensor(float(down.alpha))
    return state


@torch.no_grad()
def load_lora_state(dit: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Fill the adapters that ``add_lora`` made. Raises ``CheckpointError`` unless names, shapes and alphas agree."""
    ours = lora_state(dit)
    if state.keys() != ours.keys():
        raise CheckpointError(
            f"These LoRA weights do not belong to this LoRA. Missing: {_some(ours.keys() - state.keys())}. "
            f"Unexpected: {_some(state.keys() - ours.keys())}. Use the same targets."
        )
    wrong = [name for name, value in ours.items() if value.shape != state[name].shape]
    wrong += [name for name, value in ours.items() if name.endswith(".alpha") and value != state[name].cpu()]
    if wrong:
        raise CheckpointError(f"These LoRA weights have another rank or alpha: {_some(wrong)}. Use the same.")
    for name, value in ours.items():
        value.copy_(state[name])


def _some(names: Iterable[str]) -> str:
    """At most five of the names."""
    names = sorted(names)
    return (", ".join(names[:SHOWN]) or "none") + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
