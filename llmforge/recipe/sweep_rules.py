"""Checking ``[sweep]`` against the rest of the recipe: may these keys be swept, do they matter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from llmforge import plugins
from llmforge.component import KINDS, Component
from llmforge.errors import PluginError
from llmforge.interfaces import Space
from llmforge.options import IDENTITY, Options, Scope, scope_of
from llmforge.recipe.rules import Draft, Finding
from llmforge.recipe.schema import BY_ADDRESS, CORE_TABLES, KIND_KEYS, NoKeys, SweepKeys
from llmforge.recipe.search_space import SpaceReader
from llmforge.recipe.suggestions import Places
from llmforge.recipe.toml import KeyPath, dotted, parse_key

ENDLESS = "endless_values"
"""What a sweeper supports that can do with values that cannot be counted."""

_SELECTOR = "name"

Report = Callable[[Finding], None]


def read_space(draft: Draft, *, places: Places, report: Report) -> Space | None:
    """Return the space of a recipe that selects a sweeper, after reporting what is wrong."""
    keys = draft.table("sweep", SweepKeys)
    if keys is None:
        return None
    reader = SpaceReader(keys.space, fixed=lambda key: _value(draft, key))
    findings = [*reader.findings]
    for key, place in reader.keys.items():
        findings += _findings(key, place, places=places, seeds=keys.seeds)
    component = draft.component("sweep")
    if reader.space is not None and component is not None:
        findings += _endless(reader, component, draft)
    for finding in findings:
        report(finding)
    return None if findings else reader.space


def _findings(key: KeyPath, place: KeyPath, *, places: Places, seeds: int) -> Iterator[Finding]:
    name = dotted(key)
    found = _option(key, places)
    if isinstance(found, str):
        yield Finding(place, f"{name} is no recipe key", found)
    elif found is not IDENTITY:
        message = f"{name} is of scope {found.name}: every value of it makes the same run"
        yield Finding(place, message, "sweep what changes the result")
    elif key == ("run", "seed") and seeds > 1:
        yield Finding(place, "the seed is swept, and sweep.seeds asks for several too", "take one")


def _endless(reader: SpaceReader, component: type[Component], draft: Draft) -> Iterator[Finding]:
    """Yield the keys whose values cannot be counted, for a sweeper that counts them."""
    assert reader.space is not None
    for dimension in reader.space.dimensions:
        if ENDLESS not in component.supports and dimension.values() is None:
            name = draft.selections["sweep"][0].name
            message = f"'{name}' tries every value, and there is no end of these"
            remedy = "give a choice, or a uniform range a step"
            yield Finding(reader.keys[parse_key(dimension.key)], message, remedy)


def _option(key: KeyPath, places: Places) -> Scope | str:
    """Return the scope of a recipe key, or what to do when there is no such key."""
    table, *rest = key
    if table == "sweep":
        return "a sweep does not change itself"
    if table in CORE_TABLES:
        return _field(CORE_TABLES[table], (table,), rest, places)
    kind = KINDS.get(table)
    if kind is None:
        return places.table_remedy(table)
    if rest == [_SELECTOR] and not kind.many and kind.name not in BY_ADDRESS:
        return kind.scope
    shared = KIND_KEYS.get(table, NoKeys)
    if not rest or rest[0] in shared.model_fields:
        return _field(shared, (table,), rest, places, default=kind.scope)
    if rest[0] not in plugins.entries(table):
        return places.remedy(rest[0], table=(table,))
    try:
        options = plugins.load(table, rest[0]).Options
    except PluginError as error:
        return error.message
    return _field(options, (table, rest[0]), rest[1:], places, default=kind.scope)


def _field(
    options: type[Options],
    table: KeyPath,
    rest: list[str],
    places: Places,
    *,
    default: Scope = IDENTITY,
) -> Scope | str:
    if not rest:
        listed = ", ".join(options.model_fields)
        return f"{dotted(table)} is a table; its keys: {listed}"
    if rest[0] not in options.model_fields:
        return places.remedy(rest[0], table=table)
    return scope_of(options.model_fields[rest[0]], default)


def _value(draft: Draft, key: KeyPath) -> Any:
    """Return what the recipe itself says about a key, defaults included."""
    table, *rest = key
    chosen = draft.selections.get(table, ())
    if len(rest) == 1 and rest[0] == _SELECTOR and table in KINDS:
        return chosen[0].name if chosen else None
    if len(rest) == 2 and chosen and chosen[0].name == rest[0]:
        return getattr(chosen[0].options, rest[1], None)
    if len(rest) == 1 and table in draft.tables:
        return getattr(draft.tables[table], rest[0], None)
    return None
