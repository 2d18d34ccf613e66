"""The resolved recipe of a run as flat values by dotted key, read fast.

Reading the recipes of very many runs, nearly every table was met before, and in the others nearly
every line: tables (from one header to the next) and statements (``lr = 0.001``) are parsed by
:mod:`tomllib` once and then looked up. A file that does not divide so is parsed as a whole.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

_TABLES, _STATEMENTS = 20_000, 50_000
"""Tables and statements that are remembered."""


@dataclass(frozen=True)
class Section:
    """A table of a recipe.

    Attributes:
        name: its dotted name; empty for what precedes the first header.
        values: by whole dotted key, those of tables within it too.
        body: the values as JSON.
        hash: of name and body, 64 bits with a sign.
    """

    name: str
    values: Mapping[str, Any]
    body: str
    hash: int


def flat(tables: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested tables with their dotted keys."""
    for key, value in tables.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def read_sections(path: Path) -> list[Section]:
    """Return the tables of a recipe file that hold values; none when there is no such file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no TOML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    try:
        found = [_section(part) for part in text.replace("\n\n[", "\n\n\0[").split("\n\n\0")]
        if len({section.name for section in found}) < len(found):
            raise ValueError("a table twice")
    except ValueError:
        found = list(sections_of(dict(flat(tomllib.loads(text)))))
    return [section for section in found if section.values]


def sections_of(values: Mapping[str, Any]) -> Iterator[Section]:
    """Yield sections of the values by dotted key: all of a table are in one."""
    tables: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        tables.setdefault(key.rpartition(".")[0], {})[key] = value
    for name, table in tables.items():
        yield _as_section(name, table)


def section_names(key: str) -> list[str]:
    """Return the names of the sections in which the value of a dotted key may be."""
    parts = key.split(".")
    return [".".join(parts[:length]) for length in range(len(parts))]


def _as_section(name: str, values: Mapping[str, Any]) -> Section:
    body = json.dumps(values, default=_as_text)
    digest = hashlib.blake2b(f"{name}\n{body}".encode("utf-8", "replace"), digest_size=8).digest()
    return Section(name, values, body, int.from_bytes(digest, "big", signed=True))


@lru_cache(maxsize=_TABLES)
def _section(text: str) -> Section:
    name = ""
    values: dict[str, Any] = {}
    for position, statement in enumerate(_statements(text)):
        if not statement.startswith("["):
            values |= {f"{name}.{key}" if name else key: value for key, value in _values(statement)}
        elif position:
            raise ValueError("a header in the middle")
        else:
            name = _header(statement)
    return _as_section(name, values)


def _statements(text: str) -> Iterator[str]:
    lines = iter(text.splitlines())
    for line in lines:
        if not line or line.isspace() or line.startswith("#"):
            continue
        if not line.endswith("[") or line.startswith("["):
            yield line
            continue
        array = [line]
        for item in lines:
            array.append(item)
            if item == "]":
                break
        yield "\n".join(array)


@lru_cache(maxsize=_STATEMENTS)
def _header(line: str) -> str:
    """Return the dotted name in a header such as ``[optimizer.adamw]``."""
    tables: Any = tomllib.loads(line)
    parts = []
    while tables:
        if not isinstance(tables, dict):
            raise ValueError("an array of tables")
        part, tables = next(iter(tables.items()))
        parts.append(part)
    return ".".join(parts)


@lru_cache(maxsize=_STATEMENTS)
def _values(statement: str) -> tuple[tuple[str, Any], ...]:
    return tuple(flat(tomllib.loads(statement)))


def _as_text(value: Any) -> str:
    is_time = isinstance(value, datetime.date | datetime.time)
    return value.isoformat() if is_time else str(value)
