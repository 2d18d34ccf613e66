"""The columns of the table of runs: those every run has, its metrics, and its recipe's values."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from struct import iter_unpack, unpack
from typing import Any

from llmforge.errors import UsageError
from llmforge.insight.flat_recipe import section_names
from llmforge.insight.runs_index.entries import as_id
from llmforge.insight.summary import STATES

DESCENDING = frozenset({"started", "ended", "created", "step", "total_steps", "duration"})
"""Columns that are sorted from the largest value down unless the other way is asked for."""

_DURATION = "CASE r.state WHEN 'running' THEN r.took + {now} - r.started ELSE r.took END"
_FIXED: Mapping[str, str] = {
    "id": "r.id",
    "name": "r.name",
    "state": "r.state",
    "step": "r.step",
    "total_steps": "r.total_steps",
    "loss": "r.loss",
    "perplexity": "r.loss",
    "best_metric": "r.best_metric",
    "best_value": "r.best_value",
    "best_step": "r.best_step",
    "created": "r.created",
    "started": "r.started",
    "ended": "r.ended",
    "duration": _DURATION,
    "attempt": "r.attempt",
    "restarts": "r.restarts",
    "profile": "r.profile",
    "tags": "r.tags",
    "note": "r.note",
    "host": "r.host",
    "exit_reason": "CASE r.problem WHEN '' THEN r.exit_reason ELSE r.problem END",
    "directory": "r.id",
    "directory_gone": "r.gone",
}
FIXED = (*_FIXED, "metrics", "recipe")
"""Columns that every run has; ``metrics`` and ``recipe`` hold all of a run's as dictionaries."""

FEW = 500
"""Runs up to which their rows are looked up one by one."""

_WHOLE = frozenset({"metrics", "recipe", "tags", "directory"})
"""Columns nobody can sort by."""
_BEST = "best/"
_STATE_ORDER = " ".join(f"WHEN '{state}' THEN {place}" for place, state in enumerate(STATES))
_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class Columns:
    """Reads columns of an index.

    Args:
        connection: the index.
        root: the directory of all runs.
        now: the time up to which running runs have taken, in seconds since the epoch.
    """

    def __init__(self, connection: sqlite3.Connection, root: Path, *, now: float) -> None:
        self._connection = connection
        self._root = root
        self._now = now
        found = connection.execute("SELECT kind, name FROM names ORDER BY kind, name").fetchall()
        self.metrics = [name for kind, name in found if kind == "metric"]
        self.recipe = [name for kind, name in found if kind == "recipe"]
        self._metrics, self._recipe = frozenset(self.metrics), frozenset(self.recipe)

    @property
    def names(self) -> list[str]:
        """Every name that can be asked for."""
        return list(dict.fromkeys([*FIXED, *self.metrics, *self.recipe]))

    def check(self, names: Iterable[str], *, option: str) -> None:
        """Refuse names that no run has.

        Raises:
            UsageError: with the nearest name there is.
        """
        import difflib

        for name in names:
            if not self.has(name):
                near = difflib.get_close_matches(name, self.names, n=3)
                raise UsageError(
                    f"{option}: no run has '{name}'",
                    remedy=f"did you mean {' or '.join(map(repr, near))}?"
                    if near
                    else f"for example {', '.join(FIXED[:8])}, a metric or a recipe key",
                )

    def has(self, name: str) -> bool:
        """Return whether there is a column of that name."""
        return name in FIXED or name in self._metrics or name in self._recipe

    def order(self, name: str) -> str | None:
        """Return the SQL to sort by a column that every run has; None where that is none."""
        if name not in _FIXED or name in _WHOLE:
            return None
        if name == "state":
            return f"CASE r.state {_STATE_ORDER} END"
        return _FIXED[name].format(now=repr(self._now))

    def read(
        self,
        names: Sequence[str],
        *,
        filters: str = "1",
        values: Sequence[Any] = (),
        numbers: Sequence[int] | None = None,
    ) -> list[list[Any]]:
        """Return the columns of some runs, the runs' numbers before them.

        Args:
            names: of columns there are.
            filters: SQL on ``r``, a run.
            values: of the filters.
            numbers: of the runs, instead of filters; few.
        """
        if numbers is not None:
            filters, values = f"r.number IN ({', '.join('?' * len(numbers))})", numbers
        parts = {name: self._own(name) for name in names}
        select = ", ".join(["r.number", *(part[0] for part in parts.values() if part)])
        parameters = [value for part in parts.values() if part for value in part[1]]
        rows = self._connection.execute(
            f"SELECT {select} FROM runs r WHERE {filters}", [*parameters, *values]
        ).fetchall()
        columns = [list(column) for column in zip(*rows, strict=True)]
        own = iter(columns[1:] if columns else repeat([]))
        found = columns[0] if columns else []
        return [
            found,
            *(
                self._meaning(name)(next(own) if parts[name] else self._others(name, found))
                for name in names
            ),
        ]

    def _own(self, name: str) -> tuple[str, tuple[str, ...]] | None:
        """Return what selects a column of ``runs`` and its parameters; None where it is no such."""
        if name in _FIXED:
            return _FIXED[name].format(now=repr(self._now)), ()
        if name in self._metrics and name.startswith(_BEST):
            return "CASE r.best_metric WHEN ? THEN r.best_value END", (name[len(_BEST) :],)
        return None

    def _others(self, name: str, numbers: Sequence[int]) -> list[Any]:
        """Return what another table holds for runs: a metric, all of them, or the recipe.

        A table of its own read as a whole, in order, is several times as fast as a join.
        """
        parameters: list[Any] = []
        if name == "metrics":
            select = "SELECT number, body FROM metrics"
        elif name in self._metrics:
            select = "SELECT number, json_extract(body, ?) FROM metrics"
            parameters = [f'$."{name}"']
        else:
            select = "SELECT number, sections FROM recipes"
        if len(numbers) <= FEW:
            select += f" WHERE number IN ({', '.join('?' * len(numbers))})"
            parameters += numbers
        found = dict(self._connection.execute(select, parameters))
        return [found.get(number) for number in numbers]

    def _meaning(self, name: str) -> Callable[[list[Any]], list[Any]]:
        """Return what turns the selected values of a column into those of the runs."""
        if name == "id":
            return lambda column: [key if key.__class__ is str else as_id(key) for key in column]
        if name == "directory":
            return lambda column: [str(self._root / as_id(key)) for key in column]
        if name == "directory_gone":
            return lambda column: [bool(value) for value in column]
        if name == "perplexity":
            return lambda column: [None if loss is None else _exp(loss) for loss in column]
        if name in ("tags", "metrics"):
            return _from_json
        if name == "recipe":
            return self._recipes
        if name in _FIXED:
            return list
        if name in self._metrics:
            return lambda column: [
                _NOT_FINITE.get(value, value) if isinstance(value, str) else value
                for value in column
            ]
        return lambda column: self._recipe_values(name, column)

    def _recipe_values(self, key: str, packed: list[bytes | None]) -> list[Any]:
        places = section_names(key)
        rows = self._connection.execute(
            f"SELECT hash, body FROM sections WHERE name IN ({', '.join('?' * len(places))})",
            places,
        )
        values = {}
        for number, body in rows:
            section = json.loads(body)
            if key in section:
                values[number] = section[key]
        return _looked_up(values, packed)

    def _recipes(self, packed: list[bytes | None]) -> list[dict[str, Any]]:
        bodies = dict(self._connection.execute("SELECT hash, body FROM sections"))
        parsed: dict[int, dict[str, Any]] = {}
        recipes = []
        for hashes in packed:
            recipe: dict[str, Any] = {}
            for (part,) in iter_unpack("<q", hashes or b""):
                if part not in parsed:
                    parsed[part] = json.loads(bodies.get(part, "{}"))
                recipe |= parsed[part]
            recipes.append(recipe)
        return recipes


def _looked_up(values: Mapping[int, Any], packed: Sequence[bytes | None]) -> list[Any]:
    """Return for each recipe, packed as the hashes of its sections, the value of its section."""
    found: list[Any] = []
    place = 0
    for hashes in packed:
        parts = unpack(f"<{len(hashes) // 8}q", hashes) if hashes else ()
        if place >= len(parts) or parts[place] not in values:  # mostly where it was in the last
            place = next((index for index, part in enumerate(parts) if part in values), len(parts))
        found.append(values[parts[place]] if place < len(parts) else None)
    return found


def _from_json(column: list[Any]) -> list[Any]:
    """Return the values of texts in JSON; equal ones are parsed once."""
    parsed = {text: json.loads(text) for text in set(column) if text}
    return [parsed.get(text) for text in column]


def _exp(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf
