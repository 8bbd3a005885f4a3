"""A run's TOML file to ``Config`` and back, strictly: an unknown key or a wrong type is an error with its path."""

import dataclasses
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from kaleido_core.errors import ConfigError

from .config import Config
from .typed import build

Table = Mapping[str, Any]


def read_config(path: Path, changes: Sequence[str] = ()) -> Config:
    """``changes`` are "section.key=value" with TOML values; a bare word, or anything for a string, is a string."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}). Name a file of training/configs.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}. Mend that line.") from error
    for change in changes:
        _change(table, change)
    return build(Config, table)


def _change(table: dict[str, Any], change: str) -> None:
    name, equals, text = change.partition("=")
    section, dot, key = name.strip().partition(".")
    if not (equals and dot and section and key):
        raise ConfigError(f"--set {change}: we need section.key=value, such as run.steps=2000.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    inner = table.setdefault(section, {})
    if not isinstance(inner, dict):
        raise ConfigError(f"--set {change}: {section} is no section.")
    inner[key] = value if isinstance(value, str) or not _is_text(section, key) else text


def _is_text(section: str, key: str) -> bool:
    """Whether a setting is a string: a folder may be called 2024."""
    kind = get_type_hints(Config).get(section)
    return kind is not None and get_type_hints(kind).get(key) is str


def write_toml(config: Config) -> str:
    """Every setting, defaults included, as TOML that ``read_config`` reads."""
    lines: list[str] = []
    for section in dataclasses.fields(config):
        plain, tables = _split(getattr(config, section.name))
        lines += [f"[{section.name}]", *(f"{name} = {_literal(value)}" for name, value in plain.items()), ""]
        for name, entries in tables.items():
            for entry in entries:
                keys = (f"{key} = {_literal(value)}" for key, value in _split(entry)[0].items())
                lines += [f"[[{section.name}.{name}]]", *keys, ""]
    return "\n".join(lines)


def _split(section: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Plain values, and lists of tables."""
    values = {field.name: getattr(section, field.name) for field in dataclasses.fields(section)}
    tables = {name: value for name, value in values.items() if _is_tables(value)}
    return {name: value for name, value in values.items() if name not in tables}, tables


def _is_tables(value: object) -> bool:
    return isinstance(value, tuple) and bool(value) and all(map(dataclasses.is_dataclass, value))


def _literal(value: Any) -> str:
    """JSON's spelling of strings, numbers, lists and booleans is TOML's."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def differences(before: Config, now: Config) -> list[str]:
    """What has changed, as "section.key: old -> new"."""
    found = []
    for section in dataclasses.fields(before):
        old, new = getattr(before, section.name), getattr(now, section.name)
        for field in dataclasses.fields(old):
            values = getattr(old, field.name), getattr(new, field.name)
            if values[0] != values[1]:
                found.append(f"{section.name}.{field.name}: {values[0]!r} -> {values[1]!r}")
    return found
