"""The contract of the kind ``schedule``."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from llmforge.component import Component
from llmforge.interfaces import RunContext
from llmforge.testing.context import make_component, run_context
from llmforge.testing.contracts.base import Contract, build

STEPS = 100


class ScheduleContract(Contract):
    """A pure, finite factor of the peak learning rate for every step."""

    @pytest.fixture
    def run(self, tmp_path: Path) -> RunContext:
        """A run of 100 steps."""
        return run_context(tmp_path, total_steps=STEPS, schedule_steps=STEPS)

    @pytest.fixture
    def factor(self, plugin: Component, run: RunContext) -> Callable[[int], float]:
        """The schedule under test."""
        built: Callable[[int], float] = build(plugin, "forge_build_schedule", run=run)
        return built

    def test_it_is_a_factor_between_zero_and_one_also_past_the_end(
        self, factor: Callable[[int], float]
    ) -> None:
        values = [factor(step) for step in range(STEPS + 20)]
        assert all(math.isfinite(value) and 0 <= value <= 1 + 1e-9 for value in values)

    def test_it_reaches_the_peak_learning_rate(self, factor: Callable[[int], float]) -> None:
        assert max(factor(step) for step in range(STEPS)) == pytest.approx(1.0, abs=0.05)

    def test_it_has_no_memory_of_the_steps_it_was_asked_for(
        self, plugin: Component, run: RunContext, factor: Callable[[int], float]
    ) -> None:
        forward = [factor(step) for step in range(STEPS)]
        fresh = make_component(type(plugin), plugin.options.model_dump(exclude_unset=True))
        other = build(fresh, "forge_build_schedule", run=run)
        assert [other(step) for step in reversed(range(STEPS))] == forward[::-1]

    def test_it_spans_the_schedules_length_even_if_the_run_stops_early(
        self, plugin: Component, tmp_path: Path, factor: Callable[[int], float]
    ) -> None:
        shorter = run_context(tmp_path, total_steps=10, schedule_steps=STEPS)
        other = build(plugin, "forge_build_schedule", run=shorter)
        assert [other(step) for step in range(10)] == [factor(step) for step in range(10)]
