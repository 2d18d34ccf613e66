"""``[sweep.space]``: from what a recipe says to a :class:`~llmforge.interfaces.Space`.

A swept key is a table that says in one word how it varies: ``{choice = [8, 16]}``,
``{uniform = [0.0, 0.3]}``, ``{log = [1e-4, 1e-2]}``, ``{int = [2, 8], step = 2}`` or
``{tied = "train.batch_size", times = 2}``; ``when`` makes it depend on another key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from typing import Any

from llmforge.interfaces import Dimension, Space, Tie
from llmforge.options import closest
from llmforge.recipe.rules import Finding
from llmforge.recipe.toml import KeyPath, dotted, parse_key

SPACE = ("sweep", "space")
"""Where the space stands in a recipe."""

_WAYS: Mapping[str, frozenset[str]] = {
    "choice": frozenset({"when"}),
    "uniform": frozenset({"step", "when"}),
    "int": frozenset({"step", "log", "when"}),
    "log": frozenset({"when"}),
    "tied": frozenset({"times"}),
}
"""The words that say how a key varies, and the words that may stand beside each."""

_WORDS = tuple(dict.fromkeys([*_WAYS, *(word for words in _WAYS.values() for word in words)]))
_EXAMPLE = "for example {choice = [8, 16]} or {log = [1e-4, 1e-2]}"

Value = Callable[[KeyPath], Any]
"""Returns the recipe's own value of a key, None when it has none."""


@dataclass(frozen=True)
class _Entry:
    """One swept key as it was written: where, which key, and the table that says how."""

    path: KeyPath
    key: KeyPath
    table: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The recipe key, dotted."""
        return dotted(self.key)


class SpaceReader:
    """Reads one ``[sweep.space]`` table.

    Args:
        table: as it was written.
        fixed: returns the recipe's own value of a key.

    Attributes:
        findings: everything that is wrong with it.
        keys: every swept or tied key with the place it is written at.
        space: the space, when nothing is wrong with it.
    """

    def __init__(self, table: Mapping[str, Any], *, fixed: Value) -> None:
        self.findings: list[Finding] = []
        self._fixed = fixed
        entries = list(self._entries(table, SPACE, ()))
        self.keys = self._distinct(entries)
        self._dimensions: dict[str, Dimension] = {}
        self._ties: dict[str, Tie] = {}
        for entry in entries:
            self._read(entry)
        if not table:
            self._add(SPACE, "there is nothing to try", _EXAMPLE.replace("{", "KEY = {", 1))
        self._resolve_conditions()
        self._check_ties()
        ordered, tied = self._ordered(), self._ordered_ties()
        self.space = None if self.findings else Space(dimensions=ordered, ties=tied)

    def _add(self, path: KeyPath, message: str, remedy: str = "") -> None:
        self.findings.append(Finding(path, message, remedy))

    # Entries -------------------------------------------------------------------------------

    def _entries(self, table: Mapping[str, Any], path: KeyPath, key: KeyPath) -> Iterator[_Entry]:
        """Yield the swept keys; ``a.b.c = {...}`` and ``"a.b.c" = {...}`` are the same."""
        for name, value in table.items():
            try:
                inner = (*key, *parse_key(name)) if "." in name else (*key, name)
            except ValueError:
                self._add((*path, name), "is no recipe key")
                continue
            place = (*path, name)
            if not isinstance(value, Mapping):
                self._add(place, "must be a table that says how the key varies", _EXAMPLE)
            elif _is_leaf(value):
                yield _Entry(place, inner, value)
            else:
                yield from self._entries(value, place, inner)

    def _distinct(self, entries: list[_Entry]) -> dict[KeyPath, KeyPath]:
        found: dict[KeyPath, KeyPath] = {}
        for entry in entries:
            if entry.key in found:
                self._add(entry.path, f"{entry.name} is swept twice", "write it once")
            found[entry.key] = entry.path
        return found

    def _read(self, entry: _Entry) -> None:
        way = self._way(entry)
        if way is None:
            return
        if way == "tied":
            self._read_tie(entry)
            return
        before = len(self.findings)
        when = self._when(entry)
        dimension = self._choice(entry) if way == "choice" else self._range(entry, way)
        if dimension is not None and len(self.findings) == before:
            self._dimensions[entry.name] = Dimension(**dimension, key=entry.name, when=when)

    def _way(self, entry: _Entry) -> str | None:
        """Return the word that says how the key varies, after reporting what does not fit."""
        for word in entry.table:
            if word not in _WORDS:
                near = closest(word, _WORDS)
                remedy = f"did you mean '{near}'?" if near else f"known: {', '.join(_WORDS)}"
                self._add((*entry.path, word), "unknown key", remedy)
                return None
        ways = [word for word in _WAYS if word in entry.table]
        if "int" in ways and isinstance(entry.table.get("log"), bool):
            ways.remove("log")
        if len(ways) != 1:
            said = f"says both {' and '.join(ways)}" if ways else "does not say how it varies"
            self._add(entry.path, said, f"give one of {', '.join(_WAYS)}")
            return None
        for word in entry.table:
            if word != ways[0] and word not in _WAYS[ways[0]]:
                allowed = ", ".join(sorted(_WAYS[ways[0]]))
                message = f"does not go with {ways[0]}"
                self._add((*entry.path, word), message, f"beside {ways[0]}: {allowed}")
                return None
        return ways[0]

    # Ways ----------------------------------------------------------------------------------

    def _choice(self, entry: _Entry) -> dict[str, Any] | None:
        path, values = (*entry.path, "choice"), entry.table["choice"]
        if not isinstance(values, list) or not values:
            self._add(path, "must be a list of values to choose from", "choice = [8, 16]")
            return None
        for index, value in enumerate(values):
            if not isinstance(value, str | int | float):
                self._add((*path, str(index)), f"{value!r} cannot be chosen", "text or a number")
            elif any(value == other and type(value) is type(other) for other in values[:index]):
                self._add((*path, str(index)), f"{value!r} is listed twice", "list it once")
        return {"kind": "choice", "choices": tuple(values)}

    def _range(self, entry: _Entry, way: str) -> dict[str, Any] | None:
        path, limits = (*entry.path, way), entry.table[way]
        whole = way == "int"
        log = way == "log" or entry.table.get("log", False)
        example = f"{way} = {'[2, 8]' if whole else '[1e-4, 1e-2]'}"
        if not isinstance(limits, list) or len(limits) != 2:
            self._add(path, "must be a list of two numbers, lowest and highest", example)
            return None
        if not all(_is_number(limit, whole=whole) for limit in limits):
            what = "whole numbers" if whole else "numbers"
            self._add(path, f"must be two {what}, got {limits[0]!r} and {limits[1]!r}", example)
            return None
        low, high = limits
        if low >= high:
            remedy = f"choice = [{low}]" if low == high else "the lowest comes first"
            self._add(path, f"the range from {low} to {high} is empty", remedy)
            return None
        if log and low <= 0:
            self._add(path, f"a logarithmic range begins above 0, not at {low}", "or use uniform")
            return None
        step = self._step(entry, whole=whole, width=high - low)
        kind = "int" if whole else "float"
        return {"kind": kind, "low": low, "high": high, "step": step, "log": log}

    def _step(self, entry: _Entry, *, whole: bool, width: float) -> float | None:
        step = entry.table.get("step")
        if step is None:
            return 1 if whole else None
        path = (*entry.path, "step")
        if not _is_number(step, whole=whole) or step <= 0:
            self._add(path, f"must be a {'whole ' if whole else ''}number above 0, got {step!r}")
        elif step > width:
            self._add(path, f"{step} is more than the range is wide", f"at most {width}")
        elif entry.table.get("log") is True and step != 1:
            self._add(path, "does not go with log = true", "take one of the two out")
        return step if isinstance(step, int | float) else None

    def _when(self, entry: _Entry) -> dict[str, tuple[Any, ...]]:
        conditions = entry.table.get("when", {})
        path = (*entry.path, "when")
        if not isinstance(conditions, Mapping) or ("when" in entry.table and not conditions):
            remedy = 'when = {"optimizer.name" = "muon"}'
            self._add(path, "must be a table of keys and values", remedy)
            return {}
        return dict(self._conditions(conditions, path, ()))

    def _conditions(
        self, table: Mapping[str, Any], path: KeyPath, key: KeyPath
    ) -> Iterator[tuple[str, tuple[Any, ...]]]:
        for name, value in table.items():
            try:
                inner = (*key, *parse_key(name)) if "." in name else (*key, name)
            except ValueError:
                self._add((*path, name), "is no recipe key")
                continue
            if isinstance(value, Mapping):
                yield from self._conditions(value, (*path, name), inner)
            else:
                yield dotted(inner), tuple(value) if isinstance(value, list) else (value,)

    def _read_tie(self, entry: _Entry) -> None:
        to, times = entry.table["tied"], entry.table.get("times", 1)
        if not isinstance(to, str) or not to:
            remedy = 'tied = "train.batch_size"'
            self._add((*entry.path, "tied"), "must be the swept key it follows", remedy)
        elif not _is_number(times, whole=False) or not times:
            self._add((*entry.path, "times"), f"must be a number other than 0, got {times!r}")
        else:
            try:
                target = dotted(parse_key(to))
            except ValueError:
                self._add((*entry.path, "tied"), f"'{to}' is no recipe key")
                return
            self._ties[entry.name] = Tie(key=entry.name, to=target, times=times)

    # What ties entries together --------------------------------------------------------------

    def _resolve_conditions(self) -> None:
        """Check every condition, and take out those the recipe's own values fulfil."""
        for name, dimension in list(self._dimensions.items()):
            kept = {
                key: allowed
                for key, allowed in dimension.when.items()
                if self._depends(name, key, allowed)
            }
            self._dimensions[name] = replace(dimension, when=kept)

    def _depends(self, name: str, key: str, allowed: tuple[Any, ...]) -> bool:
        """Return whether a condition is about a swept key, after checking that it can hold."""
        path = (*self._place(name), "when")
        wanted = " or ".join(repr(value) for value in allowed)
        if key in self._dimensions:
            other = self._dimensions[key]
            if not any(other.contains(value) for value in allowed):
                known = ", ".join(repr(value) for value in other.extremes())
                self._add(path, f"{key} is never {wanted}", f"it takes {known}")
            return True
        if parse_key(key) in self.keys:  # swept or tied, and reported when it is not valid
            if key in self._ties:
                self._add(path, f"{key} only follows {self._ties[key].to}", "ask for that one")
            return True
        value = self._fixed(parse_key(key))
        if value is None:
            near = closest(key, [dotted(known) for known in self.keys])
            remedy = f"did you mean '{near}'?" if near else "sweep it too, or set it in the recipe"
            self._add(path, f"{key} is neither swept nor set", remedy)
        elif value not in allowed:
            self._add(path, f"never holds: {key} is {value!r} and not swept", "sweep it too")
        return False

    def _check_ties(self) -> None:
        for name, tie in self._ties.items():
            path = (*self._place(name), "tied")
            target = self._dimensions.get(tie.to)
            if target is None and tie.to not in self._ties:
                if parse_key(tie.to) not in self.keys:
                    near = closest(tie.to, self._dimensions)
                    known = f"did you mean '{near}'?" if near else "name a swept key"
                    self._add(path, f"{tie.to} is not swept", known)
            elif target is not None and not _is_numeric(target):
                self._add(path, f"the values of {tie.to} are not all numbers", "tie it to another")

    def _ordered(self) -> tuple[Dimension, ...]:
        graph = {name: set(item.when) for name, item in self._dimensions.items()}
        order = self._sorted(graph, "when", "conditions ask for each other in a circle")
        return tuple(self._dimensions[name] for name in order)

    def _ordered_ties(self) -> tuple[Tie, ...]:
        graph = {name: {tie.to} for name, tie in self._ties.items()}
        order = self._sorted(graph, "tied", "keys follow each other in a circle")
        return tuple(self._ties[name] for name in order)

    def _sorted(self, graph: Mapping[str, set[str]], word: str, problem: str) -> list[str]:
        try:
            return list(_stable_order(graph))
        except CycleError as error:
            circle = list(reversed(error.args[1]))
            path = (*self._place(circle[0]), word)
            self._add(path, f"{problem}: {' > '.join(circle)}", "take one of them out")
            return []

    def _place(self, name: str) -> KeyPath:
        return self.keys.get(parse_key(name), SPACE)


def _is_leaf(table: Mapping[str, Any]) -> bool:
    """Return whether a table says how a key varies, and does not hold further keys."""
    return not table or any(
        word in _WORDS or (not isinstance(value, Mapping) and closest(word, _WORDS))
        for word, value in table.items()
    )


def _is_number(value: Any, *, whole: bool) -> bool:
    return isinstance(value, int if whole else int | float) and not isinstance(value, bool)


def _is_numeric(dimension: Dimension) -> bool:
    return all(_is_number(value, whole=False) for value in dimension.choices)


def _stable_order(graph: Mapping[str, set[str]]) -> Iterator[str]:
    """Yield the names, each after those it needs, else as they were written."""
    TopologicalSorter(graph).prepare()  # raises CycleError
    done: set[str] = set()

    def visit(name: str) -> Iterator[str]:
        if name not in done:
            done.add(name)
            for needed in graph:
                if needed in graph[name]:
                    yield from visit(needed)
            yield name

    for name in graph:
        yield from visit(name)
