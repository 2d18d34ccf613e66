"""The curves of a run: each metric over steps, tokens and time, thinned to what a screen shows."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from llmforge.insight.downsample import Floats, keep_extremes
from llmforge.rundir import RunDirectory
from llmforge.ui.metric_files import Column, MetricFile, MetricFiles

MOST_POINTS = 5_000
"""Of one curve in one answer."""

Axis = Literal["step", "tokens", "time"]
"""What a curve is drawn along."""

_DIGITS = 7
"""Of a value in a thinned curve: more than a screen shows, and half as long to send and read."""

_AXES = frozenset({"step", "tokens_seen", "epoch", "time", "seconds"})
"""Columns that say where a row is, and are no curves."""


@dataclass(frozen=True)
class Clock:
    """Tokens and training time by step, for curves whose own rows do not tell them.

    Time is in seconds since training started; pauses between starts do not count.
    """

    token_steps: Floats
    tokens: Floats
    time_steps: Floats
    times: Floats

    def at(self, steps: Floats) -> tuple[Floats, Floats]:
        """Return tokens and time at the given steps; 0 where a run says nothing of them."""
        return _between(steps, self.token_steps, self.tokens), _between(
            steps, self.time_steps, self.times
        )


class Curves:
    """The curves of runs; files are read as they grow, and kept."""

    def __init__(self, files: MetricFiles) -> None:
        self._files = files

    def names(self, directory: RunDirectory) -> list[str]:
        """Return the names of a run's metrics, in the order in which they first appear."""
        with self._opened(directory) as files:
            return list(_columns(files))

    def read(
        self,
        directory: RunDirectory,
        *,
        points: int,
        names: Collection[str] = (),
        begin: float | None = None,
        end: float | None = None,
        along: Axis | None = None,
    ) -> dict[str, Any]:
        """Return curves as plain values.

        Args:
            directory: of the run.
            points: of each curve at most.
            names: of the metrics; all when empty.
            begin: first step to look at, in optimizer steps.
            end: last step to look at.
            along: the axis to give besides steps; all when None.

        Returns:
            ``series`` by name, each with lists ``step``, ``tokens``, ``time``, ``value`` and,
            where points were left out, ``mean`` (see :mod:`llmforge.insight.downsample`);
            ``metrics``, the names of all the run has; ``generation``, which changes when rows were
            taken back; and ``damaged`` lines.
        """
        most = max(4, min(points, MOST_POINTS))
        with self._opened(directory) as files:
            columns = _columns(files)
            clock = None if along == "step" else _clock(*files[:2])
            found = {
                name: _thinned(column, clock, most=most, begin=begin, end=end, along=along)
                for name, column in columns.items()
                if not names or name in names
            }
            return {
                "series": found,
                "metrics": list(columns),
                "generation": _generation(files),
                "damaged": sum(file.damaged for file in files),
            }

    def counts(self, directory: RunDirectory) -> tuple[int, dict[str, int]]:
        """Return the generation of a run's files, and how many points each metric has."""
        with self._opened(directory) as files:
            return _generation(files), _counted(files)

    def since(
        self, directory: RunDirectory, known: Mapping[str, int]
    ) -> tuple[int, dict[str, int], dict[str, dict[str, list[float | None]]]]:
        """Return generation, counts and the points beyond the ``known`` number of each metric."""
        with self._opened(directory) as files:
            columns = _columns(files)
            grown = {
                name: column
                for name, column in columns.items()
                if len(column.values) > known.get(name, 0)
            }
            points = {}
            if grown:
                clock = _clock(*files[:2])
                points = {
                    name: _listed(column, clock, start=known.get(name, 0))
                    for name, column in grown.items()
                }
            return _generation(files), _counted(files), points

    def _opened(self, directory: RunDirectory) -> AbstractContextManager[list[MetricFile]]:
        return self._files.opened((directory.metrics, directory.timing, directory.system))


def _columns(files: Collection[MetricFile]) -> dict[str, Column]:
    return {
        name: column for file in files for name, column in file.columns.items() if name not in _AXES
    }


def _counted(files: Collection[MetricFile]) -> dict[str, int]:
    return {name: len(column.values) for name, column in _columns(files).items()}


def _generation(files: Collection[MetricFile]) -> int:
    return sum(file.generation for file in files)


def _clock(metrics: MetricFile, timing: MetricFile) -> Clock:
    token_steps, tokens = _arrays(metrics.columns.get("tokens_seen"))
    time_steps, seconds = _arrays(timing.columns.get("seconds"))
    return Clock(token_steps, tokens, time_steps, np.cumsum(seconds))


def _arrays(column: Column | None) -> tuple[Floats, Floats]:
    # Copies: an array that numpy looks into cannot grow.
    if column is None:
        return np.empty(0), np.empty(0)
    return np.array(column.steps), np.array(column.values)


def _between(steps: Floats, known: Floats, values: Floats) -> Floats:
    """Return values at ``steps``, by straight lines between the known ones, from 0 at step 0."""
    if not len(known):
        return np.zeros(len(steps))
    return np.interp(steps, np.append(0.0, known), np.append(0.0, values))


def _thinned(
    column: Column,
    clock: Clock | None,
    *,
    most: int,
    begin: float | None,
    end: float | None,
    along: Axis | None,
) -> dict[str, Any]:
    steps, values = _arrays(column)
    chosen = np.isfinite(values)
    broken = steps[~chosen]
    if begin is not None:
        chosen &= steps >= begin
    if end is not None:
        chosen &= steps <= end
    steps, values = steps[chosen], values[chosen]
    kept = keep_extremes(values, most=most)
    at = steps[kept.places]
    found: dict[str, Any] = {"step": _whole(at)}
    if clock is not None:
        tokens, times = clock.at(at)
        found |= {"tokens": _whole(tokens), "time": np.round(times, 1).tolist()}
        found = {name: found[name] for name in found if along in (None, name) or name == "step"}
    found["value"] = _rounded(values[kept.places])
    if len(at) < len(steps):
        found |= {"mean": _rounded(kept.means), "of": len(steps)}
    if len(broken):
        found["not_finite"] = {"count": len(broken), "first": float(broken[0])}
    return found


def _listed(column: Column, clock: Clock, *, start: int) -> dict[str, list[float | None]]:
    steps, values = np.array(column.steps[start:]), column.values[start:]
    tokens, times = clock.at(steps)
    return {
        "step": _whole(steps),
        "tokens": _whole(tokens),
        "time": np.round(times, 1).tolist(),
        "value": [value if math.isfinite(value) else None for value in values],
    }


def _rounded(values: Floats) -> list[float]:
    """Return finite values with :data:`_DIGITS` significant digits."""
    sizes = np.abs(values)
    sizes[sizes == 0] = 1
    places = np.clip(_DIGITS - 1 - np.floor(np.log10(sizes)), -300, 300)
    scale = 10.0 ** np.abs(places)
    # Powers of ten with a negative exponent are no exact numbers: large values are divided.
    with np.errstate(over="ignore"):
        scaled = np.round(np.where(places < 0, values / scale, values * scale))
        rounded = np.where(places < 0, scaled * scale, scaled / scale)
    usable: list[float] = np.where(
        np.isfinite(rounded) & (sizes > 1e-290), rounded, values
    ).tolist()
    return usable


def _whole(values: Floats) -> list[Any]:
    return np.round(values).astype(np.int64).tolist()
