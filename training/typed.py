"""Plain JSON or TOML values to frozen dataclasses: strict, with the path of what is wrong."""

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from kaleido_core.errors import ConfigError

T = TypeVar("T")


def build(kind: type[T], value: Any, where: str = "") -> T:
    """``value`` (of ``json.loads`` or ``tomllib``) as the dataclass ``kind``; fields with defaults may be absent.

    Knows nested dataclasses, ``tuple``, ``Mapping[str, X]``, ``X | None``, ``Literal``, int, float, str and bool.
    Raises ``ConfigError`` naming the path of an unknown key, a missing one or a value of another type.
    """
    if not isinstance(value, dict):
        raise ConfigError(f"{where or 'the file'} is {value!r}; a table of {kind.__name__} is needed. Correct it.")
    hints = get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # pyright: ignore[reportArgumentType]
    for name in value:
        if name not in fields:
            raise ConfigError(f"{_join(where, name)} is unknown; known are {', '.join(fields)}. Remove or rename it.")
    arguments = {}
    for name, field in fields.items():
        if name in value:
            arguments[name] = _convert(hints[name], value[name], _join(where, name))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{_join(where, name)} is missing; {kind.__name__} needs it. Add it.")
    return kind(**arguments)


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _convert(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (kind,) = (option for option in arguments if option is not type(None))
        return _convert(kind, value, where)
    if dataclasses.is_dataclass(kind):
        return build(kind, value, where)  # pyright: ignore[reportArgumentType]
    if origin is Literal and value in arguments:
        return value
    if origin is tuple and isinstance(value, list):
        return _items(arguments, value, where)
    if origin is Mapping and isinstance(value, dict):
        return {name: _convert(arguments[1], item, _join(where, name)) for name, item in value.items()}
    if kind is float and type(value) is int:
        return float(value)
    if isinstance(kind, type) and type(value) is kind:
        return value
    wanted = " or ".join(map(repr, arguments)) if origin is Literal else getattr(kind, "__name__", str(kind))
    raise ConfigError(f"{where} is {value!r}; {wanted} is needed. Correct it.")


def _items(kinds: tuple[Any, ...], values: list[Any], where: str) -> tuple[Any, ...]:
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = (kinds[0],) * len(values)
    if len(kinds) != len(values):
        raise ConfigError(f"{where} holds {len(values)} values; {len(kinds)} are needed. Correct it.")
    return tuple(
        _convert(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(kinds, values, strict=True))
    )
