"""The base model of every option table, and the translation of pydantic's errors into problems.

An option belongs to one scope, which decides what a change of it means for a run:

* identity (the default): another value makes another run;
* :data:`SAFE`: logging, names, budgets; the same run goes on with the new value;
* :data:`MACHINE`: where and how it runs; the same run goes on elsewhere.

A scope is written as an annotation: ``log_every: Annotated[int, SAFE] = 10``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

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


def closest(name: str, candidates: Iterable[str]) -> str | None:
    """Return the candidate most like ``name``, or None when none is near enough to suggest."""
    matches = difflib.get_close_matches(name, list(candidates), n=1, cutoff=0.6)
    return matches[0] if matches else None


def problems_from(
    error: ValidationError, *, prefix: str, options: type[BaseModel]
) -> Iterator[Problem]:
    """Translate pydantic's errors on the table ``prefix`` into problems with dotted keys.

    Args:
        error: what pydantic raised.
        prefix: the dotted name of the table, for example ``optimizer.adamw``.
        options: the model that was validated; its field names feed "did you mean".
    """
    for item in error.errors(include_url=False):
        parts = [str(part) for part in item["loc"] if isinstance(part, int | str)]
        key = ".".join([prefix, *parts]) if prefix else ".".join(parts)
        if item["type"] == "extra_forbidden":
            near = closest(parts[-1], options.model_fields)
            remedy = f"did you mean '{near}'?" if near else _known(options)
            yield Problem(key=key, message="unknown key", remedy=remedy)
        elif item["type"] == "missing":
            yield Problem(key=key, message="a value is required", remedy=f"set {key} = ...")
        elif item["type"] == "value_error":
            yield Problem(key=key, message=item["msg"].removeprefix("Value error, "))
        else:
            message = item["msg"][0].lower() + item["msg"][1:]
            yield Problem(key=key, message=f"{message}, got {_shown(item['input'])}")


def plain(options: BaseModel, *, defaults: bool = True) -> dict[str, Any]:
    """Return ``options`` as TOML-compatible values; without ``defaults`` only what differs."""
    dumped = options.model_dump(mode="json", exclude_none=True, exclude_defaults=not defaults)
    return dict(sorted(dumped.items()))


def _known(options: type[BaseModel]) -> str:
    return "known keys: " + ", ".join(sorted(options.model_fields))


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return "a table"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
