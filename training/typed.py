"""Plain JSON or TOML values to frozen dataclasses: strictly, with the place of what is wrong."""

import dataclasses
import math
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from kaleido_core.errors import ConfigError

T = TypeVar("T")


def build(kind: type[T], table: object, where: str = "") -> T:
    """``table`` (of ``json.loads`` or ``tomllib``) as the dataclass ``kind``; fields with defaults may be absent.

    Knows nested dataclasses, ``tuple``, ``Mapping[str, X]``, ``X | None``, ``Literal``, int, float, str and bool.
    Raises ``ConfigError`` naming the path of an unknown key, a missing one or a value of another type.
    """
    if not isinstance(table, dict):
        raise ConfigError(f"{where or 'this'} = {table!r}: a table of {kind.__name__} is needed.")
    hints = get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # pyright: ignore[reportArgumentType]
    for key in table:
        if key not in fields:
            raise ConfigError(f"{_join(where, key)} is unknown; known here are {', '.join(fields)}. Mend the name.")
    values = {key: _value(hints[key], value, _join(where, key)) for key, value in table.items()}
    for name, field in fields.items():
        if name not in values and field.default is field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{_join(where, name)} is missing; it has no default. Add it.")
    try:
        return kind(**values)
    except ConfigError as error:
        raise ConfigError(f"[{where}] {error}" if where else str(error)) from error


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _value(hint: Any, value: object, where: str) -> Any:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        (hint,) = (option for option in inner if option is not type(None))
        return None if value is None else _value(hint, value, where)
    if dataclasses.is_dataclass(hint):
        return build(cast(type, hint), value, where)
    if origin is Literal:
        if value not in inner:
            raise ConfigError(f"{where} = {value!r}: it is one of {', '.join(map(repr, inner))}.")
        return value
    if origin is tuple:
        return _sequence(inner, value, where)
    if origin is Mapping and isinstance(value, dict):
        return {name: _value(inner[1], item, _join(where, name)) for name, item in value.items()}
    if hint is float and type(value) in (int, float):
        if not math.isfinite(cast(float, value)):
            raise ConfigError(f"{where} = {value!r}: a plain number is needed.")
        return float(cast(float, value))
    if type(value) is not hint:  # not isinstance: true is no number here
        name = getattr(hint, "__name__", str(hint))
        raise ConfigError(f"{where} = {value!r}: it must be {name}, not {type(value).__name__}.")
    return value


def _sequence(inner: tuple[Any, ...], value: object, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise ConfigError(f"{where} = {value!r}: a list is needed, such as [a, b].")
    if inner[-1] is Ellipsis:
        inner = (inner[0],) * len(value)
    if len(value) != len(inner):
        raise ConfigError(f"{where} = {value!r}: {len(inner)} values are needed, not {len(value)}.")
    pairs = enumerate(zip(inner, value, strict=True))
    return tuple(_value(hint, item, f"{where}[{place}]") for place, (hint, item) in pairs)
