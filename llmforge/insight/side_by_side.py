"""Several runs side by side: their results against a baseline, and the recipe keys that differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llmforge.insight.compare import recipe_values, results_of
from llmforge.rundir import RunEntry

Direction = Literal["minimize", "maximize"]

_SMALLER = ("loss", "perplexity", "bits_per_byte", "loss_epoch", "error", "wer", "cer", "ter")
_GREATER = (
    *("accuracy", "acc", "acc_norm", "f1", "bleu", "chrf", "exact_match", "codebleu"),
    *("rouge", "rouge1", "rouge2", "rougeL", "reward_margin", "reward_accuracy"),
)


@dataclass(frozen=True)
class Cell:
    """A value of one run, None where it has none.

    ``change`` is the difference to the baseline and ``percent`` that in hundredths of the
    baseline's value; None for the baseline itself and where there is no number to compare.
    ``best`` marks the best of the row.
    """

    value: Any
    change: float | None = None
    percent: float | None = None
    best: bool = False


@dataclass(frozen=True)
class Line:
    """A result, or a recipe key, of every run."""

    name: str
    cells: tuple[Cell, ...]

    @property
    def differs(self) -> bool:
        """Whether not all runs have the same value."""
        return len({repr(cell.value) for cell in self.cells}) > 1


@dataclass(frozen=True)
class SideBySide:
    """Runs side by side: ``runs`` are their ids, the baseline's first."""

    runs: tuple[str, ...]
    recipe: tuple[Line, ...]
    results: tuple[Line, ...]


def side_by_side(entries: Sequence[RunEntry]) -> SideBySide:
    """Compare runs; the first one is the baseline.

    Raises:
        RunError: a recipe cannot be read.
    """
    recipes = [recipe_values(entry) for entry in entries]
    lines = [
        Line(key, tuple(Cell(recipe.get(key)) for recipe in recipes))
        for key in dict.fromkeys(key for recipe in recipes for key in recipe)
        if key != "run.root"
    ]
    results = [results_of(entry) for entry in entries]
    names = dict.fromkeys(name for result in results for name in result)
    return SideBySide(
        tuple(entry.directory.id for entry in entries),
        tuple(line for line in lines if line.differs),
        tuple(_line(name, [result.get(name) for result in results]) for name in names),
    )


def direction_of(metric: str) -> Direction | None:
    """Return whether more or less of a metric is better, by its name; None when nobody knows."""
    last = metric.split("/")[-1].split(" ")[-1]
    if last in _SMALLER:
        return "minimize"
    return "maximize" if last in _GREATER else None


def as_mapping(found: SideBySide) -> dict[str, Any]:
    """Return a comparison as plain dictionaries and lists."""
    return {
        "runs": list(found.runs),
        "baseline": found.runs[0],
        "recipe": {line.name: [cell.value for cell in line.cells] for line in found.recipe},
        "results": {
            line.name: [
                {
                    "value": cell.value,
                    "change": cell.change,
                    "percent": cell.percent,
                    "best": cell.best,
                }
                for cell in line.cells
            ]
            for line in found.results
        },
    }


def _line(name: str, values: Sequence[Any]) -> Line:
    numbers = [_number(value) for value in values]
    usable = [value for value in numbers if value is not None]
    direction = direction_of(name)
    best = None
    if direction is not None and len(set(usable)) > 1:
        best = min(usable) if direction == "minimize" else max(usable)
    base = numbers[0]
    cells = []
    for place, (value, number) in enumerate(zip(values, numbers, strict=True)):
        change = percent = None
        if place and base is not None and number is not None:
            change = number - base
            percent = 100 * change / abs(base) if base else None
        cells.append(Cell(value, change, percent, best is not None and number == best))
    return Line(name, tuple(cells))


def _number(value: Any) -> float | None:
    usable = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if usable and math.isfinite(value) else None


def flat_results(found: SideBySide) -> list[Mapping[str, Any]]:
    """Return a row per run and result, for CSV."""
    return [
        {
            "result": line.name,
            "run": run,
            "value": cell.value,
            "change": cell.change,
            "percent": cell.percent,
            "best": cell.best,
        }
        for line in found.results
        for run, cell in zip(found.runs, line.cells, strict=True)
    ]
