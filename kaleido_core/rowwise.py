"""Steps that treat each row alone: one kernel on a GPU, a few rows at a time elsewhere.

Written out plainly, each of them would hold several float32 copies of all activations.
"""

import functools
import logging
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

logger = logging.getLogger("kaleido.rowwise")

ROWS = 2048  # at a time: 40 MiB in float32 at width 5120, which stays in a cache

P = ParamSpec("P")
T = TypeVar("T")
Step = Callable[..., Tensor]


def rowwise(count: int) -> Callable[[Step], Step]:
    """For a function whose first ``count`` arguments, and result, have their rows (tokens) on axis -2.

    The numbers are those of the plain function: on a GPU with Triton within its rounding, elsewhere to the bit.
    """

    def decorate(function: Step) -> Step:
        in_one_kernel = fused(function)

        @functools.wraps(function)
        def run(*arguments: Any) -> Tensor:
            if torch.compiler.is_compiling() or can_fuse(arguments[0]):
                return in_one_kernel(*arguments)
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


def can_fuse(x: Tensor) -> bool:
    """Whether steps on ``x`` become one kernel."""
    return x.is_cuda and _works


def fused(function: Callable[P, T]) -> Callable[P, T]:
    """``function``, compiled at its first use on a GPU; elsewhere, or where no compiler works, as it is."""
    compiled: Callable[P, T] | None = None

    @functools.wraps(function)
    def run(*arguments: P.args, **named: P.kwargs) -> T:
        nonlocal compiled
        x = arguments[0]
        if torch.compiler.is_compiling() or not (isinstance(x, Tensor) and can_fuse(x)):
            return function(*arguments, **named)
        compiled = compiled or torch.compile(function)
        try:
            return compiled(*arguments, **named)
        except (torch.cuda.OutOfMemoryError, KeyboardInterrupt):
            raise
        except Exception as error:  # whatever a compiler and its toolchain may come up with
            _give_up(error)
            return function(*arguments, **named)

    return run


_works = True


def _give_up(error: Exception) -> None:
    global _works
    _works = False
    lines = str(error).strip().splitlines() or [type(error).__name__]
    logger.warning("Without fused kernels, which is slower: %s", lines[0])
