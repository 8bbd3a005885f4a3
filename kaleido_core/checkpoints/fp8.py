"""Eight-bit weights with a scale, as ComfyUI stores them: weight = value * scale.

Older files hold a ``scaled_fp8`` marker and ``X.scale_weight``; newer ones ``X.weight_scale`` and a description of
each layer, as a ``X.comfy_quant`` tensor of JSON bytes or in the file's metadata (``_quantization_metadata``).
"""

import json
from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor

from ..errors import CheckpointError

FP8 = torch.float8_e4m3fn
FP8_DTYPES = (torch.float8_e4m3fn, torch.float8_e5m2)
READABLE_FORMATS = ("float8_e4m3fn", "float8_e5m2")
SCALE_SUFFIXES = (".scale_weight", ".weight_scale")
AUXILIARY_SUFFIXES = (*SCALE_SUFFIXES, ".scale_input", ".input_scale", ".comfy_quant")
MARKER = "scaled_fp8"
METADATA_KEY = "_quantization_metadata"


def find_scales(keys: Collection[str]) -> dict[str, str]:
    """Weight key -> key of its scale."""
    return {
        key.removesuffix(suffix) + ".weight": key for suffix in SCALE_SUFFIXES for key in keys if key.endswith(suffix)
    }


def is_auxiliary(key: str) -> bool:
    """Whether a key belongs to the number format and not to the model."""
    return key.endswith(AUXILIARY_SUFFIXES) or key.split(".")[-1] == MARKER


def check_formats(name: str, keys: Collection[str], metadata: Mapping[str, str], read: Callable[[str], Tensor]) -> None:
    """Refuse a file whose layers say that they are in a format other than scaled fp8."""
    try:
        layers = json.loads(metadata.get(METADATA_KEY, "{}")).get("layers", {})
        described = {key: json.loads(bytes(read(key).tolist())) for key in keys if key.endswith(".comfy_quant")}
    except (ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{name} describes its number format unreadably ({error}); we need ComfyUI's JSON. Download it again."
        ) from error
    for layer, description in [*layers.items(), *described.items()]:
        if description.get("format") not in READABLE_FORMATS:
            raise CheckpointError(
                f"{name} stores {layer} as {description.get('format')}; we read {' and '.join(READABLE_FORMATS)}. "
                "Use a bf16 or fp8_scaled version of this model."
            )


def dequantise(value: Tensor, scale: Tensor) -> Tensor:
    """Float32 ``value * scale``; the scale is one number, or one for each row."""
    scale = scale.float()
    return value.float() * (scale if scale.numel() == 1 else scale.reshape(-1, *[1] * (value.ndim - 1)))


def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Float8 values and the float32 scale of a whole weight; the largest number uses the full range."""
    weight = weight.float()
    limit = torch.finfo(FP8).max
    largest = weight.abs().amax()
    scale = torch.where(largest > 0, largest / limit, torch.ones_like(largest))
    return (weight / scale).clamp_(-limit, limit).to(FP8), scale


def describe_layer() -> Tensor:
    """The ``comfy_quant`` tensor of a layer that ``quantise`` made."""
    return torch.tensor(list(json.dumps({"format": "float8_e4m3fn"}).encode()), dtype=torch.uint8)
