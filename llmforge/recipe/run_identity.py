"""What makes two recipes the same run: identity keys, their hash, and the ids made from it.

Only what changes the result counts: options of scope identity (:mod:`llmforge.options`) that
differ from their defaults, of the core tables and the selected components. Leaving defaults out
means that a new option with a default changes the id of no existing run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from llmforge.component import KINDS
from llmforge.options import IDENTITY, Options, Scope, scope_of
from llmforge.recipe.resolved import Recipe
from llmforge.recipe.schema import CORE_TABLES, DEFAULT_COMPONENTS, KIND_KEYS, LATER_KINDS
from llmforge.recipe.toml import dotted

SCHEMA_VERSION = 1
"""Part of every hash; raised when the meaning of identity itself changes."""

SHORT = 6
"""Hex digits of the hash that end a run id."""


@dataclass(frozen=True)
class Identity:
    """What identifies a run.

    Attributes:
        hash: SHA-256 of the keys, in full, as hex digits.
        keys: identity keys with their values, without those at their default.
        schema_version: how the hash was made.
    """

    hash: str
    keys: Mapping[str, Any]
    schema_version: int = SCHEMA_VERSION


class Difference(NamedTuple):
    """An identity key that two recipes disagree on; None stands for the default."""

    key: str
    old: Any
    new: Any


def identity(recipe: Recipe) -> Identity:
    """Return the identity of ``recipe``."""
    keys = dict(sorted(_keys(recipe)))
    canonical = json.dumps(
        {"schema_version": SCHEMA_VERSION, "keys": keys}, sort_keys=True, separators=(",", ":")
    )
    return Identity(hash=hashlib.sha256(canonical.encode()).hexdigest(), keys=keys)


def run_id(recipe: Recipe) -> str:
    """Return the id of the run: the recipe's own, or one that tells its main sizes."""
    if recipe.run.id is not None:
        return recipe.run.id
    batch, context = recipe.train.batch_size, recipe.context
    rate = format_rate(recipe.learning_rate)
    return f"single_bs{batch}_cw{context}_lr{rate}-{identity(recipe).hash[:SHORT]}"


def trial_id(recipe: Recipe) -> str:
    """Return the id of the run as a trial of a sweep."""
    batch, context = recipe.train.batch_size, recipe.context
    rate = format_rate(recipe.learning_rate)
    return f"tune_{batch}_{context}_{rate}-{identity(recipe).hash[:SHORT]}"


def differing(old: Identity, new: Identity) -> list[Difference]:
    """Return the keys in which two identities differ, sorted."""
    return [
        Difference(key, old.keys.get(key), new.keys.get(key))
        for key in sorted({*old.keys, *new.keys})
        if old.keys.get(key) != new.keys.get(key)
    ]


def format_rate(rate: float) -> str:
    """Return a learning rate like ``1e-03``, with more digits only where they are needed."""
    digits = 0
    while float(text := f"{rate:.{digits}e}") != rate:
        digits += 1
    return text


def _keys(recipe: Recipe) -> Iterator[tuple[str, Any]]:
    for name in CORE_TABLES:
        yield from _identifying(getattr(recipe, name), name, IDENTITY)
    for kind in KINDS.values():
        if kind.scope is not IDENTITY:
            continue
        if kind.name in KIND_KEYS:
            yield from _identifying(getattr(recipe, kind.name), kind.name, IDENTITY)
        for selection in recipe.selections.get(kind.name, ()):
            prefix = dotted((kind.name, selection.name))
            if kind.name in LATER_KINDS and selection.name == DEFAULT_COMPONENTS[kind.name]:
                continue
            if kind.many:
                yield prefix, True
            else:
                yield f"{kind.name}.name", selection.name
            yield from _identifying(selection.options, prefix, IDENTITY)


def _identifying(options: Options, prefix: str, scope: Scope) -> Iterator[tuple[str, Any]]:
    """Return the identity options of one table that differ from their defaults."""
    fields = type(options).model_fields
    kept = {name for name, info in fields.items() if scope_of(info, scope) == IDENTITY}
    values = options.model_dump(mode="json", include=kept, exclude_defaults=True)
    for name, value in values.items():
        yield f"{prefix}.{name}", value
