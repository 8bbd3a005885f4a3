"""A weights source seen through our names: translated, split, dequantised and checked."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError
from . import fp8
from .layouts import KINDS, LAYOUTS, Detected, Kind, Piece, detect, translate
from .sizes import Identity, Shapes, read_identity
from .source import WeightSource, open_source

MAX_LISTED = 5


class Weights:
    """Tensors of one model under our names, read when asked for."""

    def __init__(self, source: WeightSource, detected: Detected) -> None:
        self.source, self.detected = source, detected
        self.kind: Kind = detected.layout.kind
        self._scales = fp8.find_scales(source.infos)
        model_keys = [key for key in source.infos if not fp8.is_auxiliary(key)]
        self.pieces, self.unknown = translate(model_keys, detected)
        self.shapes: Shapes = {name: self._shape(piece) for name, piece in self.pieces.items()}
        fp8.check_formats(source.name, source.infos, source.metadata, source.read)

    @property
    def identity(self) -> Identity:
        return read_identity(self.source.metadata, self.kind)

    def _shape(self, piece: Piece) -> tuple[int, ...]:
        shape = self.source.infos[piece.key].shape
        return (shape[0] // piece.parts, *shape[1:]) if piece.parts > 1 else shape

    def stored_dtype(self, name: str) -> torch.dtype:
        return self.source.infos[self.pieces[name].key].dtype

    def in_file_order(self) -> list[str]:
        """Our names in the order in which reading them is cheapest."""
        order = {key: number for number, key in enumerate(self.source.in_file_order(self.source.infos))}
        return sorted(self.pieces, key=lambda name: order[self.pieces[name].key])

    def natural_dtype(self) -> torch.dtype:
        """The dtype that most numbers have; bfloat16 for eight-bit files."""
        counts: dict[torch.dtype, int] = {}
        for name, shape in self.shapes.items():
            dtype = self.stored_dtype(name)
            counts[dtype] = counts.get(dtype, 0) + torch.Size(shape).numel()
        dtype = max(counts, key=lambda dtype: counts[dtype])
        return torch.bfloat16 if dtype.itemsize == 1 else dtype

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        """One tensor of ours; where nothing changes it is a view of mapped memory."""
        piece = self.pieces[name]
        tensor = _rows(self.source.read(piece.key), piece)
        if piece.key in self._scales:
            scale = self.source.read(self._scales[piece.key])
            tensor = fp8.dequantise(tensor, _rows(scale, piece) if scale.numel() > 1 else scale)
        return tensor.to(dtype)

    def require(self, expected: Shapes) -> None:
        """Raise ``CheckpointError`` unless the names and shapes are exactly the expected ones."""
        shapes = self.shapes
        missing = [name for name in expected if name not in shapes]
        surplus = [*self.unknown, *(piece.key for name, piece in self.pieces.items() if name not in expected)]
        if missing or surplus:
            raise CheckpointError(
                f"{self.source.name} does not match a {self.kind} model; we took its layout for {self.detected}. "
                f"Missing: {listed(missing)}. Unexpected: {listed(surplus)}. "
                "Check that it is this kind of model, complete, and not another variant (image to video, VACE, a LoRA)."
            )
        packed = [self.pieces[name].key for name in shapes if not self.stored_dtype(name).is_floating_point]
        if packed:
            raise CheckpointError(
                f"{self.source.name} packs weights into integers ({listed(packed)}); we read floating point and "
                "scaled fp8. Use a bf16 or fp8_scaled version of this model."
            )
        wrong = [
            f"{name} is {list(shapes[name])}, not {list(shape)}"
            for name, shape in expected.items()
            if shapes[name] != shape
        ]
        if wrong:
            raise CheckpointError(
                f"{self.source.name} ({self.detected}) has tensors of another size: {listed(wrong)}. "
                "The config must fit the file; leave it out to have it inferred."
            )


def open_weights(path: str | Path, kind: Kind | None = None) -> Weights:
    """Open a file and recognise its layout; only headers are read."""
    source = open_source(path, kind)
    detected = detect(source.infos, kind)
    if detected is None:
        raise CheckpointError(_unrecognised(source, kind))
    return Weights(source, detected)


def _unrecognised(source: WeightSource, kind: Kind | None) -> str:
    wanted = f"a {kind} model" if kind else "a model that we know"
    other = next((found for each in KINDS if (found := detect(source.infos, each))), None)
    if other is not None:
        return f"{source.name} is a {other.layout.kind} model ({other}); we need {wanted}. Pick the other file."
    names = ", ".join(sorted({layout.name for layout in LAYOUTS if kind in (None, layout.kind)}))
    return (
        f"{source.name} is not {wanted} in a layout that we know ({names}). Its keys: {listed(sorted(source.infos))}. "
        "Check that it is the right file."
    )


def _rows(tensor: Tensor, piece: Piece) -> Tensor:
    return tensor.chunk(piece.parts)[piece.part] if piece.parts > 1 else tensor


def listed(items: Iterable[str]) -> str:
    items = list(items)
    more = f" and {len(items) - MAX_LISTED} more" if len(items) > MAX_LISTED else ""
    return (", ".join(items[:MAX_LISTED]) or "none") + more


def shapes_of(tensors: Mapping[str, Tensor]) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
