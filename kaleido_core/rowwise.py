"""Steps that treat each row alone: one kernel on a graphics card, a few rows at a time elsewhere.

Written out plainly, each of them would hold several float32 copies of all activations. The kernel is that of
``row_kernels.py``, or what ``torch.compile`` makes of the step where gradients are wanted.
"""

import functools
import logging
from collections.abc import Callable
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from .errors import first_line

logger = logging.getLogger("kaleido.rowwise")

ROWS = 2048  # at a time: 40 MiB in float32 at width 5120, which stays in a cache
BATCH_ROWS = 14336  # at a time in attention and MLP: keeps a GPU busy, 0.4 GiB of hidden values at 14B
LIMIT = 64  # kernels of one function, for different dtypes, widths and modes

P = ParamSpec("P")
T = TypeVar("T")
Step = Callable[..., Tensor]


def rowwise(count: int) -> Callable[[Step], Step]:
    """For a function whose first ``count`` arguments, and result, have their rows (tokens) on axis -2.

    The numbers are those of the plain function: on a card with Triton rounded once, at the end; elsewhere to the bit.
    """

    def decorate(function: Step) -> Step:
        in_one_kernel = fused(function, lambda *arguments: by_rows(function, arguments[:count], arguments[count:]))

        @functools.wraps(function)
        def run(*arguments: Any) -> Tensor:
            return in_one_kernel(*arguments)

        return run

    return decorate


def by_rows(
    function: Step,
    tensors: tuple[Tensor, ...],
    rest: tuple[Any, ...] = (),
    rows: int = ROWS,
    into: Tensor | None = None,
) -> Tensor:
    """``function(*tensors, *rest)``, at most ``rows`` of axis -2 of the ``tensors`` at a time; at once for gradients.

    The parts are of equal size, because a short last one leaves a GPU half empty. ``into`` may be one of ``tensors``:
    the results are then written where the rows lay that they were made of.
    """
    length = tensors[0].shape[-2]
    if length <= rows or torch.is_grad_enabled():
        return function(*tensors, *rest)
    result = into
    rows = -(-length // -(-length // rows))
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


def fused(function: Callable[P, T], otherwise: Callable[P, T] | None = None) -> Callable[P, T]:
    """``function`` as one kernel on a card; elsewhere, or where no compiler works, ``otherwise`` or as it is."""
    compiled: Callable[P, T] | None = None
    plain = otherwise or function
    proven: set[bool] = set()  # ways, by whether gradients are wanted, that have worked once

    @functools.wraps(function)
    def run(*arguments: P.args, **named: P.kwargs) -> T:
        nonlocal compiled
        learns = torch.is_grad_enabled()
        if torch.compiler.is_compiling():
            return function(*arguments, **named)
        x = arguments[0]
        if not (isinstance(x, Tensor) and can_fuse(x)) or (learns and _learns_tables(x, arguments)):
            return plain(*arguments, **named)
        try:
            if not learns and x.stride(-1) == 1:
                result = getattr(_kernels(), function.__name__)(*arguments, **named)
            else:
                compiled = compiled or _compile(function)
                _keep_widths(arguments)
                result = compiled(*arguments, **named)
            proven.add(learns)
            return result
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a compiler and its toolchain may come up with
            if learns in proven:  # no compiler's: checkpointing ends its second forward by raising, for one
                raise
            _give_up(error)
            return plain(*arguments, **named)

    return run


def _learns_tables(x: Tensor, arguments: tuple[object, ...]) -> bool:
    """Whether something that many rows share wants a gradient: compiled, torch 2.11 gives it another shape."""
    return any(isinstance(other, Tensor) and other.requires_grad and other.shape != x.shape for other in arguments)


@functools.cache
def _kernels() -> ModuleType:
    from . import row_kernels  # not everywhere is there a Triton

    return row_kernels


def _compile(function: Callable[P, T]) -> Callable[P, T]:
    # Past its limit of kernels a function would silently run as written, with float32 copies of all activations.
    settings: Any = torch._dynamo.config
    name = "recompile_limit" if hasattr(settings, "recompile_limit") else "cache_size_limit"  # before torch 2.7
    setattr(settings, name, max(LIMIT, getattr(settings, name)))
    return torch.compile(function)


def _keep_widths(arguments: tuple[object, ...]) -> None:
    """Rows change from call to call, widths hardly: a kernel for each width knows its strides."""
    for x in arguments:
        if isinstance(x, Tensor):
            torch._dynamo.mark_static(x, x.ndim - 1)
            if x.ndim > 1 and x.shape[-2] > 1:
                torch._dynamo.maybe_mark_dynamic(x, x.ndim - 2)


_works = True


def _give_up(error: Exception) -> None:
    global _works
    _works = False
    logger.warning("Without fused kernels, which is slower: %s", first_line(error))
