"""Turning merged tables into typed ones, and finding everything that is wrong with them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from llmforge import plugins
from llmforge.component import KINDS, Kind
from llmforge.errors import PluginError, Problem
from llmforge.installed import Entry
from llmforge.interfaces import Space
from llmforge.options import Options, problems_from
from llmforge.plugins import storage_component
from llmforge.recipe.measured import metric_direction
from llmforge.recipe.overrides import Layers
from llmforge.recipe.resolved import Selection
from llmforge.recipe.rules import Draft, Finding, broken_rules
from llmforge.recipe.schema import CORE_TABLES, DEFAULT_COMPONENTS, KIND_KEYS, NoKeys, SweepKeys
from llmforge.recipe.suggestions import Places
from llmforge.recipe.sweep_rules import read_space
from llmforge.recipe.toml import KeyPath, dotted
from llmforge.redaction import find_secrets, secret_remedy

_SELECTORS = ("name", "names")
BY_URL, BY_ADDRESSES = "storage", "deploy"
"""The kinds whose components are picked by something else than their name."""
SWEEP, METRIC = "sweep", "metric"
_UNNAMED = {SWEEP: "a sweep must name a sweeper", "adapter": "a recipe must name its adapter"}


class Check:
    """One pass over merged tables.

    Args:
        layers: the merged tables and where each value came from.
        label: the recipe as messages name it.
        complete: whether model, data and the training length must be there.

    Attributes:
        tables: valid core tables and the kinds' own keys, by table name.
        selections: selected components with valid options, by kind.
        space: what a sweep may change; None without one, or when something is wrong with it.
        problems: what is wrong, in the order it is written.
    """

    def __init__(self, layers: Layers, *, label: str, complete: bool = True) -> None:
        self._layers = layers
        self._label = label
        self._complete = complete
        self._values: dict[str, Any] = layers.values
        self._found: list[Problem] = []
        self._taken_out: set[KeyPath] = set()
        self._classes: dict[tuple[str, str], type[Options]] = {}
        self.tables: dict[str, Options] = {}
        self.selections: dict[str, tuple[Selection, ...]] = {}
        self.space: Space | None = None
        self._run()
        self.problems = sorted(self._found, key=_position)

    def _run(self) -> None:
        self._refuse_secrets()
        names = {kind.name: self._selected_names(kind) for kind in KINDS.values()}
        for kind in KINDS.values():
            self._load_classes(kind, names[kind.name])
        self._places = Places(self._classes)
        self._top_level()
        for name, options in CORE_TABLES.items():
            self._core_table(name, options)
        for kind in KINDS.values():
            self._kind(kind, names[kind.name])
        self._sweep_direction()
        draft = Draft(tables=self.tables, selections=self.selections)
        for finding in broken_rules(draft):
            self._report(finding)
        if self.selections.get(SWEEP):
            self.space = read_space(draft, places=self._places, report=self._report)

    def _refuse_secrets(self) -> None:
        """Report secrets and continue without them, so that no later message shows one."""
        for path, message in list(find_secrets(self._values)):
            node = self._values
            for part in path[:-1]:
                node = node[part]
            value = node.pop(path[-1])
            self._add(path, message, secret_remedy(self._variables(path, value)))
            self._taken_out.add(path)

    def _variables(self, path: KeyPath, value: Any) -> Sequence[str]:
        """Return the variables that the component takes secrets from which a wrong key is for."""
        kind, name = path[0], path[1] if len(path) > 2 else ""
        if isinstance(value, str) and "://" in value and name not in self._known(kind):
            kind, name = BY_URL, storage_component(value, self._known(BY_URL))
        if name not in self._known(kind):
            return ()
        try:
            return plugins.load(kind, name).credentials
        except PluginError:  # told when the component itself is looked for
            return ()

    def _known(self, kind: str) -> Mapping[str, Entry]:
        return self._entries(kind) if kind in KINDS else {}

    def _top_level(self) -> None:
        for name, value in self._values.items():
            if name in CORE_TABLES or name in KINDS:
                if not isinstance(value, dict):
                    self._add((name,), "must be a table", f"write [{name}]")
            elif name in ("extends", "profile"):
                self._add((name,), "can only be written at the top of a recipe file")
            else:
                what = "unknown table" if isinstance(value, dict) else "unknown key"
                remedy = self._component_home(name) or self._places.table_remedy(name)
                self._add((name,), what, remedy)

    def _selected_names(self, kind: Kind) -> list[str]:
        """Return the component names a recipe selects for ``kind``, reporting bad selectors."""
        table = self._table(kind.name)
        right, wrong = ("names", "name") if kind.many else ("name", "names")
        if kind.name == BY_URL:
            for key in _SELECTORS:
                if key in table:
                    self._add((kind.name, key), "the scheme of url picks the storage", "set url")
            url = table.get("url")
            if not isinstance(url, str) or "://" not in url:
                return []
            return [storage_component(url, self._entries(kind.name))]
        if kind.name == BY_ADDRESSES:
            return self._deployments(kind)
        if wrong in table:
            many = f'a recipe may have several: write names = ["{_first(table[wrong])}"]'
            single = f'a recipe has one: write name = "{_first(table[wrong])}"'
            self._add((kind.name, wrong), "unknown key", many if kind.many else single)
            return []
        if right not in table:
            return self._default_names(kind)
        chosen = table[right]
        if kind.many:
            return self._several_names(kind, chosen)
        if not isinstance(chosen, str):
            self._add((kind.name, right), f"must be the name of one {kind.name}")
            return []
        return [chosen]

    def _several_names(self, kind: Kind, chosen: Any) -> list[str]:
        path = (kind.name, "names")
        if not isinstance(chosen, list) or not all(isinstance(name, str) for name in chosen):
            remedy = f'for example names = ["{_first(chosen)}"]'
            self._add(path, "must be a list of names", remedy)
            return []
        for name in dict.fromkeys(name for name in chosen if chosen.count(name) > 1):
            self._add(path, f"'{name}' is listed twice", "list it once")
        return list(dict.fromkeys(chosen))

    def _deployments(self, kind: Kind) -> list[str]:
        """Return the components of all addresses, and those that have options for one to come."""
        for key in _SELECTORS:
            if key in self._table(kind.name):
                remedy = 'for example to = ["hf://OWNER/NAME"]'
                self._add((kind.name, key), "the addresses in to say where it goes", remedy)
        given = self._table(kind.name)
        addresses = given.get("to")
        listed = self._entries(kind.name)
        schemes = [
            str(address).partition(":")[0]
            for address in (addresses if isinstance(addresses, list) else ())
        ]
        tables = [name for name, value in given.items() if isinstance(value, dict)]
        return [name for name in dict.fromkeys([*schemes, *tables]) if name in listed]

    def _default_names(self, kind: Kind) -> list[str]:
        default = DEFAULT_COMPONENTS.get(kind.name)
        if isinstance(default, str):
            return [default] if self._complete or kind.name in self._values else []
        if kind.name in ("model", "data") and self._complete:
            listed = ", ".join(sorted(self._entries(kind.name))) or "none installed"
            self._add((kind.name, "name"), "a recipe must name one", f"available: {listed}")
        if kind.optional and kind.name in self._values:
            listed = ", ".join(sorted(self._entries(kind.name))) or "none installed"
            self._add((kind.name, "name"), _UNNAMED[kind.name], f"available: {listed}")
        return list(default or ())

    def _load_classes(self, kind: Kind, names: list[str]) -> None:
        """Load the options class of every component that is selected or has a table."""
        entries = self._entries(kind.name)
        keys = KIND_KEYS.get(kind.name, NoKeys).model_fields
        tables = [
            key
            for key, value in self._table(kind.name).items()
            if isinstance(value, dict) and key not in keys
        ]
        for name in dict.fromkeys([*names, *tables]):
            selector = (kind.name, "names" if kind.many else "name")
            path = selector if name in names else (kind.name, name)
            if name not in entries:
                remedy = self._component_home(name) or plugins.suggestion(kind.name, name)
                self._add(path, plugins.unknown_component(kind.name, name), remedy)
                continue
            try:
                self._classes[kind.name, name] = plugins.load(kind.name, name).Options
            except PluginError as error:
                self._add(path, error.message, error.remedy)

    def _entries(self, kind: str) -> Mapping[str, Entry]:
        try:
            return plugins.entries(kind)
        except PluginError as error:
            self._add((kind,), error.message, error.remedy)
            return {}

    def _component_home(self, name: str) -> str:
        """Return where the options of a component called ``name`` belong, or nothing."""
        homes = [kind for kind in KINDS if name in self._entries(kind)]
        return f"'{name}' is of kind {homes[0]}: [{dotted((homes[0], name))}]" if homes else ""

    def _core_table(self, name: str, options: type[Options]) -> None:
        if name in self._values or self._complete:
            valid = self._validate((name,), self._table(name), options)
            if valid is not None:
                self.tables[name] = valid

    def _kind(self, kind: Kind, names: list[str]) -> None:
        table = self._table(kind.name)
        shared = KIND_KEYS.get(kind.name, NoKeys)
        own = {}
        for key, value in table.items():
            if key in shared.model_fields:
                own[key] = value
            elif key in _SELECTORS or isinstance(value, dict):
                continue
            elif key in self._entries(kind.name):
                path = (kind.name, key)
                self._add(path, "must be a table", f"write [{dotted(path)}]")
            else:
                own[key] = value
        keys = self._validate((kind.name,), own, shared)
        if keys is not None:
            self.tables[kind.name] = keys
        self._components(kind, names, table)

    def _components(self, kind: Kind, names: list[str], table: Mapping[str, Any]) -> None:
        checked: dict[str, Options] = {}
        for (owner, name), options in self._classes.items():
            if owner == kind.name and isinstance(given := table.get(name, {}), dict):
                valid = self._validate((kind.name, name), given, options)
                if valid is not None:
                    checked[name] = valid
        if all(name in checked for name in names):
            chosen = [Selection(kind.name, name, checked[name]) for name in names]
            self.selections[kind.name] = tuple(chosen)

    def _validate(
        self, path: KeyPath, table: Mapping[str, Any], options: type[Options]
    ) -> Options | None:
        """Return the typed table, or None after reporting what is wrong with it."""
        unknown = [key for key in table if key not in options.model_fields]
        for key in unknown:
            self._add((*path, key), "unknown key", self._places.remedy(key, table=path))
        known = {key: value for key, value in table.items() if key not in unknown}
        try:
            # Through JSON, so that a TOML array may fill a tuple and a string a path.
            return options.model_validate_json(json.dumps(known, default=str))
        except ValidationError as error:
            prefix = dotted(path)
            for problem in problems_from(error, prefix=prefix, options=options, table=known):
                inner = problem.key[len(prefix) + 1 :]
                place = (*path, *inner.split(".")) if inner else path
                self._add(place, problem.message, problem.remedy)
            return None

    def _sweep_direction(self) -> None:
        """Fill in the direction that the metric of a sweep has by itself."""
        sweep = self.tables.get(SWEEP)
        if isinstance(sweep, SweepKeys) and "direction" not in sweep.model_fields_set:
            direction = metric_direction(self.selections, sweep.metric)
            self.tables[SWEEP] = sweep.model_copy(update={"direction": direction})

    def _table(self, name: str) -> Mapping[str, Any]:
        value = self._values.get(name, {})
        return value if isinstance(value, dict) else {}

    def _report(self, finding: Finding) -> None:
        self._add(finding.path, finding.message, finding.remedy)

    def _add(self, path: KeyPath, message: str, remedy: str = "") -> None:
        if any(taken[: len(path)] == path for taken in self._taken_out):
            return  # what was taken out of there is the reason, and has been told
        origin = self._layers.origin(path)
        where = str(origin) if origin else self._label
        problem = Problem(message=message, key=dotted(path), where=where, remedy=remedy)
        if problem not in self._found:
            self._found.append(problem)


def leaves(tables: Mapping[str, Any], prefix: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Return every value of nested tables with its path."""
    for key, value in tables.items():
        path = (*prefix, key)
        if isinstance(value, Mapping):
            yield from leaves(value, path)
        else:
            yield path, value


def _position(problem: Problem) -> tuple[str, int]:
    """Return a key that sorts problems by file and line; those of a profile come after."""
    file, _, line = problem.where.rstrip(")").rpartition(":")
    return (file, int(line)) if line.isdecimal() else (problem.where, 0)


def _first(value: Any) -> str:
    if isinstance(value, list):
        return str(value[0]) if value else "..."
    return str(value)
