"""The contract of the kind ``metric``."""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from llmforge.component import Component
from llmforge.interfaces import Metric, RunContext
from llmforge.testing.contracts.base import Contract, build

ANSWERS = (
    ("The river is long.", "The river is very long."),
    ("def add(a, b):\n    return a + b", "def add(x, y):\n    return x + y"),
    ("", "Nothing was said."),
    ("Zwölf Boxkämpfer jagen Viktor.", "Zwölf Boxkämpfer jagen Viktor quer über den Deich."),
    ("the same words in both", "the same words in both"),
)
"""Predicted and reference text."""

LABELS = ((0, 0), (1, 2), (2, 2), (1, 1), (0, 1))
"""Predicted and true label."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class MetricContract(Contract):
    """Measures a whole corpus, however it is divided, and knows its best predictions."""

    @pytest.fixture
    def pairs(self, plugin: Component) -> Sequence[tuple[Any, Any]]:
        """Predictions with their references, of the sort that the metric compares."""
        return LABELS if plugin.needs == "labels" else ANSWERS

    def _measure(
        self, plugin: Component, run: RunContext, *batches: Sequence[tuple[Any, Any]]
    ) -> Mapping[str, float]:
        metric: Metric = build(plugin, "forge_build_metric", run=run)
        for batch in batches:
            predictions, references = zip(*batch, strict=True)
            metric.update(predictions, references)
        return metric.compute()

    def test_it_says_what_it_compares_and_what_is_better(self, plugin: Component) -> None:
        assert plugin.needs in {"answers", "labels"}
        assert plugin.direction in {"minimize", "maximize"}

    def test_its_values_have_the_names_it_says(
        self, plugin: Component, run: RunContext, pairs: Sequence[tuple[Any, Any]]
    ) -> None:
        values = self._measure(plugin, run, pairs)
        assert tuple(values) == plugin.measures
        assert all(_NAME.fullmatch(name) for name in values)
        assert all(math.isfinite(value) for value in values.values())

    def test_batches_do_not_change_the_value(
        self, plugin: Component, run: RunContext, pairs: Sequence[tuple[Any, Any]]
    ) -> None:
        whole = self._measure(plugin, run, pairs)
        for size in (1, 2, 3):
            batches = [pairs[begin : begin + size] for begin in range(0, len(pairs), size)]
            assert self._measure(plugin, run, *batches) == whole

    def test_a_new_one_remembers_nothing(
        self, plugin: Component, run: RunContext, pairs: Sequence[tuple[Any, Any]]
    ) -> None:
        first = self._measure(plugin, run, pairs[:2])
        self._measure(plugin, run, pairs[2:])
        assert self._measure(plugin, run, pairs[:2]) == first

    def test_nothing_is_better_than_the_reference_itself(
        self, plugin: Component, run: RunContext, pairs: Sequence[tuple[Any, Any]]
    ) -> None:
        measured = self._measure(plugin, run, pairs)
        perfect = self._measure(plugin, run, [(reference, reference) for _, reference in pairs])
        for name, value in perfect.items():
            better = value > measured[name]
            assert better if plugin.direction == "maximize" else value < measured[name]

    def test_its_memory_does_not_grow_with_the_number_of_predictions(
        self, plugin: Component, run: RunContext, pairs: Sequence[tuple[Any, Any]]
    ) -> None:
        metric: Metric = build(plugin, "forge_build_metric", run=run)
        predictions, references = zip(*pairs, strict=True)
        metric.update(predictions, references)
        before = _size(metric)
        for _ in range(200):
            metric.update(predictions, references)
        assert _size(metric) < before + 16_384


def _size(metric: Metric) -> int:
    """Return the bytes that the plain values of a metric take."""
    total = 0
    for value in vars(metric).values():
        try:
            total += len(pickle.dumps(value))
        except (TypeError, pickle.PicklingError, AttributeError):  # an open file, a scorer
            continue
    return total
