"""The table of runs: which ones, in which order, with which columns. Imports no torch."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from math import inf
from pathlib import Path
from typing import Any, TypeVar

from llmforge.errors import RunError, UsageError
from llmforge.insight.runs_index.columns import DESCENDING, FEW, FIXED, Columns
from llmforge.insight.runs_index.database import discard, in_memory, open_database
from llmforge.insight.runs_index.refresh import Refresh
from llmforge.insight.runs_index.where_columns import check_names, matching, names
from llmforge.insight.runs_index.where_syntax import Node, parse
from llmforge.insight.summary import STATES
from llmforge.rundir import RunDirectory
from llmforge.rundir.layout import ARCHIVE

Result = TypeVar("Result")


class RunsTable:
    """The runs below a root as they are now.

    Args:
        root: the directory of all runs.
        thorough: compare every run with its files, not only those likely to have changed; see
            :mod:`llmforge.insight.runs_index.refresh`.
        archived: the cleared runs instead; they are read from their files each time.

    Raises:
        RunError: the root cannot be read.
    """

    def __init__(self, root: Path, *, thorough: bool = False, archived: bool = False) -> None:
        self._root = root / ARCHIVE if archived else root
        self._connection = in_memory() if archived else open_database(root)
        self._columns: Columns | None = None
        self._refresh(thorough=thorough)

    def __enter__(self) -> RunsTable:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the index."""
        self._connection.close()

    def select(
        self,
        *,
        where: str = "",
        states: Sequence[str] = (),
        tags: Sequence[str] = (),
        since: float | None = None,
        sort: str = "started",
        reverse: bool = False,
    ) -> list[int]:
        """Return the numbers of the runs that match, in order; runs without the value come last.

        Args:
            where: an expression (:mod:`llmforge.insight.runs_index.where_syntax`); empty: all.
            states: any of these; all when empty.
            tags: runs must have every one.
            since: started at this time or later, in seconds since the epoch.
            sort: a column that all runs have, a metric or a recipe key. Times, steps and durations
                go from the largest down, the rest from the smallest up.
            reverse: the other way round; runs without the value still come last.

        Raises:
            UsageError: an unknown name or state, or an expression that is none.
        """
        filters, values = _filters(states, tags, since)
        node = parse(where) if where else None
        return self._safely(lambda: self._selected(node, where, filters, values, sort, reverse))

    def rows(
        self, numbers: Sequence[int], columns: Sequence[str] | None = None
    ) -> list[dict[str, Any]]:
        """Return the values of runs, in the order of ``numbers``.

        Args:
            numbers: as :meth:`select` returned them.
            columns: names of columns, in order; None for all that every run has, ``metrics``
                among them.

        Raises:
            UsageError: no run has one of the names.
        """
        wanted = [name for name in FIXED if name != "recipe"] if columns is None else list(columns)
        return self._safely(lambda: self._rows(numbers, wanted))

    @property
    def columns(self) -> Columns:
        """The columns there are."""
        if self._columns is None:
            self._columns = Columns(self._connection, self._root, now=time.time())
        return self._columns

    def counts(self) -> dict[str, int]:
        """Return how many runs are in each state that occurs, in the order of ``STATES``."""
        found = dict(
            self._connection.execute("SELECT state, count(*) FROM runs WHERE is_run GROUP BY state")
        )
        return {state: found[state] for state in STATES if state in found}

    def _selected(
        self,
        node: Node | None,
        where: str,
        filters: str,
        values: list[Any],
        sort: str,
        reverse: bool,
    ) -> list[int]:
        down = (sort in DESCENDING) != reverse
        order = self.columns.order(sort)
        if node is None and order is not None:
            direction = "DESC" if down else "ASC"
            statement = (
                f"SELECT number FROM runs r WHERE {filters} ORDER BY {order} {direction} NULLS LAST"
            )
            # The index by start has the ids in order too; others are sorted whole.
            found = self._connection.execute(f"{statement}, r.id", values)
            return [number for (number,) in found]
        if self._connection.execute("SELECT 1 FROM runs WHERE is_run = 1").fetchone() is None:
            return []  # nothing has a name yet
        self._check_sort(sort)
        if node is not None:
            check_names(node, where, self.columns.names)
        used = [] if node is None else list(dict.fromkeys(item.name for item in names(node)))
        wanted = list(dict.fromkeys(["id", sort, *used]))
        # Without the index by start: rows in the table's own order are read much faster.
        whole = filters.replace("r.is_run", "+r.is_run")
        numbers, *read = self.columns.read(wanted, filters=whole, values=values)
        by_name = dict(zip(wanted, read, strict=True))
        holds = (
            [True] * len(numbers)
            if node is None
            else matching(node, where, by_name.__getitem__, len(numbers))
        )
        places = [place for place, held in enumerate(holds) if held]
        return [numbers[place] for place in _ordered(places, by_name, sort, down=down)]

    def _check_sort(self, sort: str) -> None:
        if not self.columns.has(sort) or sort in ("metrics", "recipe", "tags", "directory"):
            usable = ["id", "state", "step", "started", "ended", "duration", "loss", "perplexity"]
            more = [name for name in self.columns.metrics if name not in usable]
            raise UsageError(
                f"no run has a metric '{sort}' to sort by",
                remedy=f"sort by {', '.join([*usable, *more])} or a recipe key",
            )

    def _rows(self, numbers: Sequence[int], wanted: list[str]) -> list[dict[str, Any]]:
        self.columns.check(wanted, option="--columns")
        few = numbers if len(numbers) <= FEW else None
        found, *columns = self.columns.read(wanted, numbers=few)
        places = {number: place for place, number in enumerate(found)}
        rows = list(zip(*columns, strict=True))
        return [
            dict(zip(wanted, rows[places[number]], strict=True))
            for number in numbers
            if number in places
        ]

    def _safely(self, read: Callable[[], Result]) -> Result:
        """Return what ``read`` does; over a damaged index, after building it again."""
        try:
            return read()
        except sqlite3.DatabaseError:
            self._rebuild()
            return read()

    def _refresh(self, *, thorough: bool) -> None:
        refresh = Refresh(self._connection, self._root, thorough=thorough)
        try:
            refresh.run()
        except sqlite3.DatabaseError:
            self._connection = refresh.connection
            self._rebuild()
            return
        self._connection = refresh.connection

    def _rebuild(self) -> None:
        self._connection.close()
        self._columns = None
        self._connection = open_database(self._root) if discard(self._root) else in_memory()
        refresh = Refresh(self._connection, self._root)
        refresh.run()
        self._connection = refresh.connection


def runs_table(
    root: Path,
    *,
    where: str = "",
    sort: str = "started",
    reverse: bool = False,
    columns: Sequence[str] | None = None,
    limit: int | None = None,
    states: Sequence[str] = (),
    tags: Sequence[str] = (),
    since: float | None = None,
    archived: bool = False,
) -> list[dict[str, Any]]:
    """Return the runs below ``root`` that match as plain dictionaries, in order.

    Args:
        root: the directory of all runs.
        where: which, for example ``"val/loss < 3.3 and 'base' in tags"``; empty: all.
        sort: a column, a metric or a recipe key; see :meth:`RunsTable.select`.
        reverse: the other way round.
        columns: keys of the dictionaries: columns, metrics such as ``val/loss``, recipe keys such
            as ``optimizer.adamw.lr``, and ``metrics`` and ``recipe`` for all of them. None: every
            column that all runs have, and ``metrics``.
        limit: how many at most; None for all.
        states: any of these states.
        tags: runs must have every one.
        since: started at this time or later, in seconds since the epoch.
        archived: the cleared runs instead.

    Returns:
        A dictionary per run. Times are in seconds since the epoch, ``duration`` in seconds, losses
        in nats per token; what a run does not have is None.

    Raises:
        RunError: the root cannot be read.
        UsageError: an unknown name, an unknown state, or an expression that is none.
    """
    with RunsTable(root, archived=archived) as table:
        numbers = table.select(
            where=where, states=states, tags=tags, since=since, sort=sort, reverse=reverse
        )
        return table.rows(numbers[:limit], columns)


def newest_run(root: Path) -> RunDirectory:
    """Return the run that was started last.

    Raises:
        RunError: there is none.
    """
    with RunsTable(root) as table:
        numbers = table.select()
        for start in range(0, len(numbers), FEW):
            for row in table.rows(numbers[start : start + FEW], ["id", "state", "directory_gone"]):
                if not row["directory_gone"] and row["state"] != "unreadable":
                    return RunDirectory(root / row["id"])
    raise RunError(f"no runs in {root}", remedy="train one: forge train wikitext_tiny")


def _filters(
    states: Sequence[str], tags: Sequence[str], since: float | None
) -> tuple[str, list[Any]]:
    unknown = [state for state in states if state not in STATES]
    if unknown:
        raise UsageError(f"unknown state '{unknown[0]}'", remedy=f"known: {', '.join(STATES)}")
    parts, values = ["r.is_run = 1"], list[Any]()
    if states:
        parts.append(f"r.state IN ({', '.join('?' * len(states))})")
        values += states
    for tag in tags:
        parts.append("EXISTS (SELECT 1 FROM json_each(r.tags) WHERE value = ?)")
        values.append(tag)
    if since is not None:
        parts.append("r.started >= ?")
        values.append(since)
    return " AND ".join(parts), values


def _ordered(
    places: list[int], columns: dict[str, list[Any]], sort: str, *, down: bool
) -> list[int]:
    """Return places of runs in order of a column, then of id; those without a value last."""
    ids, keys = columns["id"], columns[sort]
    places = sorted(places, key=ids.__getitem__)
    try:
        valued = [
            place for place in places if (key := keys[place]) is not None and -inf < key < inf
        ]
    except TypeError:  # texts, maybe among numbers, which go first
        valued = [place for place in places if isinstance(keys[place], int | float | str)]
        valued.sort(key=lambda place: (isinstance(keys[place], str), keys[place]), reverse=down)
    else:
        valued.sort(key=keys.__getitem__, reverse=down)
    kept = set(valued)
    return valued + [place for place in places if place not in kept]
