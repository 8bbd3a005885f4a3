"""Steps that treat each token alone: one kernel on a GPU, a few rows at a time elsewhere.

Written out plainly, each of them would hold several float32 copies of all activations.
"""

import functools
import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger("kaleido.dit")

ROWS = 2048  # tokens at a time: 40 MiB in float32 at width 5120, which stays in a cache

Step = Callable[..., Tensor]


def rowwise(count: int) -> Callable[[Step], Step]:
    """For a function whose first ``count`` arguments, and result, have a row per token on axis -2.

    The numbers are those of the plain function: on a GPU with Triton within its rounding, elsewhere to the bit.
    """

    def decorate(function: Step) -> Step:
        @functools.wraps(function)
        def run(*arguments: Any) -> Tensor:
            if torch.compiler.is_compiling():
                return function(*arguments)
            if arguments[0].is_cuda and _fusion.works:
                return _fusion(function, arguments)
            return by_rows(function, arguments[:count], arguments[count:])

        return run

    return decorate


def by_rows(function: Step, tensors: tuple[Tensor, ...], rest: tuple[Any, ...] = (), rows: int = ROWS) -> Tensor:
    """``function(*tensors, *rest)``, ``rows`` of axis -2 of the ``tensors`` at a time; all at once for gradients."""
    length = tensors[0].shape[-2]
    if length <= rows or torch.is_grad_enabled():
        return function(*tensors, *rest)
    result: Tensor | None = None
    for start in range(0, length, rows):
        size = min(rows, length - start)
        part = function(*(tensor.narrow(-2, start, size) for tensor in tensors), *rest)
        if result is None:
            result = part.new_empty(*part.shape[:-2], length, part.shape[-1])
        result.narrow(-2, start, size).copy_(part)
        del part  # before the next one is made
    assert result is not None
    return result


class _Fusion:
    """Compiles a step at its first use; given up for good where that is not possible."""

    def __init__(self) -> None:
        self.works = True
        self.compiled: dict[Step, Step] = {}

    def __call__(self, function: Step, arguments: tuple[Any, ...]) -> Tensor:
        if function not in self.compiled:
            self.compiled[function] = torch.compile(function)
        try:
            return self.compiled[function](*arguments)
        except (torch.cuda.OutOfMemoryError, KeyboardInterrupt):
            raise
        except Exception as error:  # whatever a compiler and its toolchain may come up with
            self.works = False
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            logger.warning("Without fused kernels, which is slower: %s", reason)
            return function(*arguments)


_fusion = _Fusion()
