"""The base model of every option table, and the translation of pydantic's errors into problems.

An option belongs to one scope, which decides what a change of it means for a run:

* identity (the default): another value makes another run;
* :data:`SAFE`: logging, names, budgets; the same run continues with the new value;
* :data:`MACHINE`: where and how it runs; the same run continues elsewhere.

A scope is written as an annotation: ``log_every: Annotated[int, SAFE] = 10``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from llmforge.errors import Problem

ScopeName = Literal["identity", "safe", "machine"]


@dataclass(frozen=True)
class Scope:
    """What a change of the annotated option means for an existing run."""

    name: ScopeName


IDENTITY = Scope("identity")
SAFE = Scope("safe")
MACHINE = Scope("machine")


class Options(BaseModel):
    """Base of every option table: strict types, unknown keys refused, values immutable.

    Give each option a default unless no sensible one exists, and document it with a docstring
    below the field; both appear in ``forge plugins show`` and in the JSON Schema.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        validate_default=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        protected_namespaces=(),
    )


def scope_of(field: FieldInfo, default: Scope = IDENTITY) -> Scope:
    """Return the scope annotated on ``field``, or ``default``."""
    return next((item for item in field.metadata if isinstance(item, Scope)), default)


def closest(name: str, candidates: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """Return the candidate most like ``name``, or None when none is near enough to suggest."""
    matches = difflib.get_close_matches(name, list(candidates), n=1, cutoff=cutoff)
    return matches[0] if matches else None


def problems_from(
    error: ValidationError,
    *,
    prefix: str,
    options: type[BaseModel],
    table: Mapping[str, Any],
) -> Iterator[Problem]:
    """Translate pydantic's errors on the table ``prefix`` into problems with dotted keys.

    Args:
        error: what pydantic raised.
        prefix: the dotted name of the table, for example ``optimizer.adamw``.
        options: the model that was validated; its field names feed "did you mean".
        table: what was validated.
    """
    by_key: dict[str, list[ErrorDetails]] = {}
    for item in error.errors(include_url=False):
        parts = [str(part) for part in _real_parts(item, table)]
        by_key.setdefault(".".join([prefix, *parts] if prefix else parts), []).append(item)
    for key, items in by_key.items():
        if _of_another_type(items) and any(other.startswith(f"{key}.") for other in by_key):
            continue  # one type of a union; what is wrong by the other one is told, further inside
        yield _problem(key, items, prefix=prefix, options=options)


def plain(options: BaseModel, *, defaults: bool = True) -> dict[str, Any]:
    """Return ``options`` as TOML-compatible values; without ``defaults`` only what differs."""
    dumped = options.model_dump(mode="json", exclude_none=True, exclude_defaults=not defaults)
    return dict(sorted(dumped.items()))


def _of_another_type(items: list[ErrorDetails]) -> bool:
    return all(
        item["type"].endswith("_type") and isinstance(item["input"], list | dict) for item in items
    )


def _real_parts(item: ErrorDetails, table: Mapping[str, Any]) -> Iterator[int | str]:
    """Return the location of an error without the tags pydantic adds for each type of a union."""
    node: Any = table
    for index, part in enumerate(item["loc"]):
        absent = item["type"] == "missing" and index == len(item["loc"]) - 1
        if isinstance(node, Mapping) and (part in node or absent):
            node = node.get(part)
        elif isinstance(node, list) and isinstance(part, int) and part < len(node):
            node = node[part]
        else:
            continue
        yield part


def _problem(
    key: str, items: list[ErrorDetails], *, prefix: str, options: type[BaseModel]
) -> Problem:
    """Return one problem for all that pydantic says about one key."""
    first = items[0]
    if first["type"] == "extra_forbidden":
        name = key.removeprefix(f"{prefix}.")
        if (table := _table_of(name, options)) is not None:
            options, name = table, name.rpartition(".")[2]
        near = closest(name, options.model_fields)
        known = "" if "." in name else "known keys: " + ", ".join(sorted(options.model_fields))
        return Problem(
            key=key, message="unknown key", remedy=f"did you mean '{near}'?" if near else known
        )
    if first["type"] == "missing":
        return Problem(key=key, message="a value is required", remedy=f"set {key} = ...")
    if first["type"] == "value_error":
        return Problem(key=key, message=first["msg"].removeprefix("Value error, "))
    lead = "Input should be "
    wanted = dict.fromkeys(item["msg"].removeprefix(lead) for item in items)
    message = first["msg"][0].lower() + first["msg"][1:]
    if first["msg"].startswith(lead):
        message = "should be " + " or ".join(wanted)
    return Problem(
        key=key,
        message=f"{message}, got {_shown(first['input'])}",
        remedy=_in_quotes(first["input"]) if first["type"] == "string_type" else "",
    )


def _in_quotes(value: object) -> str:
    """Return how a text is written that TOML takes for a number, as a year or an id may be."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    return f'a text is in quotes: "{value}", on a command line \'"{value}"\''


def _table_of(name: str, options: type[BaseModel]) -> type[BaseModel] | None:
    """Return the table inside ``options`` that the dotted ``name`` is a key of, if it is one."""
    table, dot, _ = name.partition(".")
    if not dot or table not in options.model_fields or name.count(".") > 1:
        return None
    members = get_args(options.model_fields[table].annotation)
    tables = (item for item in members if isinstance(item, type) and issubclass(item, BaseModel))
    return next(tables, None)


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return "a table"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
