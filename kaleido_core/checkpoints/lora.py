"""LoRA files: what they add to a transformer's weights, in every spelling that is common for Wan.

A layer may be named as ours or as diffusers', with dots or, as kohya does, with underscores, behind any of
``PREFIXES``. Distilled models come as LoRA files that also hold plain differences of norms, biases and modulation.
"""

import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, ConfigError
from .layouts import DIT_DIFFUSERS, theirs
from .sizes import Shapes
from .source import WeightSource, open_source
from .weights import listed, shapes_of

logger = logging.getLogger("kaleido.checkpoints")

DOWN, UP, ALPHA, DIFFERENCES = "down", "up", "alpha", ("diff", "diff_b", "diff_m")
SUFFIXES = {
    **dict.fromkeys((".lora_A.weight", ".lora_A.default.weight", ".lora_down.weight", ".lora.down.weight"), DOWN),
    **dict.fromkeys((".lora_B.weight", ".lora_B.default.weight", ".lora_up.weight", ".lora.up.weight"), UP),
    ".alpha": ALPHA,
    **{f".{role}": role for role in DIFFERENCES},  # of the weight itself, the bias, the modulation
}
PREFIXES = ("base_model_model", "model_diffusion_model", "diffusion_model", "model", "transformer", "unet", "dit")
PREFIXES += ("lora_unet", "lycoris")
PREFIX = re.compile(f"(?:(?:{'|'.join(PREFIXES)})_+)*")

Place = tuple[str, str]  # a layer's name with underscores, without prefixes; and what of it


@dataclass(frozen=True)
class Change:
    """What a LoRA file adds to one weight, ``strength`` times: ``keys`` by their role."""

    source: WeightSource
    strength: float
    keys: Mapping[str, str]

    def fits(self, shape: tuple[int, ...]) -> bool:
        sizes = {role: self.source.infos[key].shape for role, key in self.keys.items()}
        if DOWN in sizes and UP in sizes:
            (rank, *inputs), (outputs, ranks, *_) = sizes[DOWN], sizes[UP]
            if (rank, outputs, math.prod(inputs)) != (ranks, shape[0], math.prod(shape[1:])):
                return False
        elif {DOWN, UP, ALPHA} & sizes.keys():
            return False
        return all(math.prod(sizes[role]) == math.prod(shape) for role in DIFFERENCES if role in sizes)

    def added_to(self, weight: Tensor, device: torch.device | str | None = None) -> Tensor:
        """A new weight of the same dtype and place; summed in float32, on ``device`` if one is given."""
        place = device or weight.device
        values = {role: self.source.read(key).to(place, torch.float32) for role, key in self.keys.items()}
        total = weight.to(place, torch.float32)
        if DOWN in values:
            down, up = values[DOWN].flatten(1), values[UP].flatten(1)
            scale = values[ALPHA].item() / len(down) if ALPHA in values else 1.0
            total = total + (self.strength * scale * (up @ down)).view_as(total)
        for role in DIFFERENCES:
            if role in values:
                total = total + self.strength * values[role].view_as(total)
        return total.to(weight.device, weight.dtype)


class Lora:
    """A LoRA file, ``strength`` times; only its header is read until a change is added.

    Raises ``ConfigError`` for a strength that is no number, ``CheckpointError`` for a file that is no plain LoRA.
    """

    def __init__(self, path: str | Path, strength: float = 1.0) -> None:
        if not math.isfinite(strength):
            raise ConfigError(f"LoRA strength {strength}: a number is needed, usually 0 to 1. Write {path}:0.8.")
        self.source, self.strength = open_source(path), strength
        found = {key: _place(key) for key in self.source.infos}
        strange = [key for key, place in found.items() if place is None]
        if strange or not found:
            raise CheckpointError(
                f"{self.source.name} is no LoRA that we read; these keys are strange to us: {listed(strange)}. "
                "Plain LoRAs of Wan are needed, with lora_A and lora_B or lora_down and lora_up. Take another file."
            )
        self._keys = {place: key for key, place in found.items() if place}

    def changes(self, shapes: Shapes) -> dict[str, Change]:
        """What is added to the weights of a model with these names and shapes; ``CheckpointError`` if it is another."""
        names = _names(shapes)
        unknown = [key for place, key in self._keys.items() if place not in names]
        if unknown:
            raise CheckpointError(
                f"{self.source.name} changes layers that this model has not: {listed(unknown)}. "
                "It is for another model, such as image to video. Take a LoRA for Wan 2.1 text to video or Kaleido."
            )
        keys: dict[str, dict[str, str]] = {}
        for (layer, role), key in self._keys.items():
            keys.setdefault(names[layer, role], {})[role] = key
        changes = {name: Change(self.source, self.strength, roles) for name, roles in keys.items()}
        wrong = [name for name, change in changes.items() if not change.fits(shapes[name])]
        if wrong:
            raise CheckpointError(
                f"{self.source.name} does not fit this model's {listed(wrong)}: it is for another size, or a pair is "
                "not whole. Take a LoRA that was made for a model of this size."
            )
        return changes


def read_lora(given: str) -> Lora:
    """What ``FILE`` or ``FILE:STRENGTH`` means."""
    path, colon, strength = given.rpartition(":")
    try:
        factor = float(strength) if colon else 1.0
    except ValueError:  # the colon belongs to the path
        path, factor = given, 1.0
    return Lora(path or given, factor)


@torch.no_grad()
def merge_lora(dit: nn.Module, lora: Lora, device: torch.device | str | None = None) -> None:
    """Add ``lora`` to the weights of ``dit``, in place, computing on ``device``. ``quantize`` comes after this."""
    changes = lora.changes(shapes_of(dit.state_dict()))
    for name, change in changes.items():
        parameter = dit.get_parameter(name)
        parameter.data = change.added_to(parameter.data, device)
    logger.info("merged %s into %d weights, strength %g", lora.source.name, len(changes), lora.strength)


def merged_bytes(loras: Sequence[Lora], shapes: Shapes, itemsize: int = 2) -> int:
    """Bytes of the weights that the LoRAs change: once merged, they lie in no file any more."""
    changed = {name for lora in loras for name in lora.changes(shapes)}
    return itemsize * sum(math.prod(shapes[name]) for name in changed)


def _place(key: str) -> Place | None:
    """Which layer a key of a file means, and what of it."""
    for suffix, role in SUFFIXES.items():
        if key.endswith(suffix):
            return PREFIX.sub("", _underscored(key.removesuffix(suffix)), count=1), role
    return None


def _names(shapes: Shapes) -> dict[Place, str]:
    """Every place that a file can mean -> our weight."""
    names: dict[Place, str] = {}
    for name in shapes:
        for spelling in (name, *(piece.key for piece in theirs(name, DIT_DIFFUSERS))):
            layer, _, leaf = spelling.rpartition(".")
            if leaf == "weight":
                names |= {(_underscored(layer), role): name for role in (DOWN, UP, ALPHA, "diff")}
            elif leaf == "bias":
                names[_underscored(layer), "diff_b"] = name
            else:  # modulation, or scale_shift_table
                names[_underscored(layer), "diff_m"] = names[_underscored(spelling), "diff"] = name
    return names


def _underscored(name: str) -> str:
    return name.replace(".", "_")
