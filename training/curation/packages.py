"""Optional packages, loaded when they are needed: training runs without those of curation."""

import importlib
from typing import Any

from kaleido_core.errors import ConfigError


def load(module: str, package: str) -> Any:
    """The module, or a ``ConfigError`` naming the package that brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"{module} cannot be imported ({error}); this step needs it. pip install {package}"
        ) from error
