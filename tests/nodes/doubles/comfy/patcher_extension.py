from collections.abc import Callable, Sequence
from typing import Any


class WrappersMP:
    DIFFUSION_MODEL = "diffusion_model"
    PREPARE_SAMPLING = "prepare_sampling"


def run_wrapped(original: Callable[..., Any], wrappers: Sequence[Callable[..., Any]], *args: Any, **others: Any) -> Any:
    """Call ``original`` through ``wrappers``, the first outermost."""
    if not wrappers:
        return original(*args, **others)
    first, rest = wrappers[0], wrappers[1:]
    return first(lambda *a, **o: run_wrapped(original, rest, *a, **o), *args, **others)
