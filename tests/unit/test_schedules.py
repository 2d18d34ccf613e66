"""Learning-rate schedules: where they start, bend and end."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from llmforge.errors import RecipeError
from llmforge.interfaces import RunContext
from llmforge.recipe.schema import TrainTable
from llmforge_plugins.schedules.warmup import Constant, Cosine, Linear, WarmupSchedule, Wsd

ALL = [Constant, Linear, Cosine, Wsd]


def run_of(steps: int) -> RunContext:
    return RunContext(
        id="r",
        directory=Path("run"),
        cache=Path("cache"),
        config={},
        train=TrainTable(max_steps=10),
        seed=1,
        context=8,
        schedule_steps=steps,
    )


def factors(cls: type[WarmupSchedule], steps: int, *, count: int | None = None, **options: Any):
    schedule = cls(cls.Options(**options)).forge_build_schedule(run=run_of(steps))
    return [schedule(step) for step in range(count or steps)]


@pytest.mark.parametrize("cls", ALL)
def test_warmup_rises_in_equal_steps_from_above_zero_to_the_peak(cls):
    assert factors(cls, 100, warmup_steps=4)[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]


@pytest.mark.parametrize("cls", ALL)
def test_warmup_may_be_a_fraction(cls):
    assert factors(cls, 100, warmup=0.1) == factors(cls, 100, warmup_steps=10)


@pytest.mark.parametrize("cls", ALL)
def test_without_warmup_the_first_step_has_the_peak(cls):
    assert factors(cls, 50)[0] == 1.0


@pytest.mark.parametrize("cls", ALL)
def test_past_the_end_the_last_value_holds(cls):
    values = factors(cls, 20, count=60, warmup_steps=2)
    assert values[20:] == [values[19]] * 40
    assert values[19] > 0


@pytest.mark.parametrize("cls", ALL)
def test_total_steps_replaces_the_length_of_the_run(cls):
    assert factors(cls, 7, count=30, total_steps=30) == factors(cls, 30)


@pytest.mark.parametrize("cls", [Linear, Cosine, Wsd])
def test_decay_never_rises_and_stays_above_the_floor(cls):
    values = factors(cls, 200, warmup_steps=20, min_ratio=0.1)[20:]
    assert values == sorted(values, reverse=True)
    assert 0.1 < values[-1] < 0.2


def test_linear_is_half_way_down_at_half_time():
    assert factors(Linear, 110, warmup_steps=10, min_ratio=0.2)[60] == pytest.approx(0.6)


def test_cosine_follows_the_cosine():
    values = factors(Cosine, 100, min_ratio=0.1)
    for step in (0, 25, 50, 99):
        expected = 0.1 + 0.9 * (1 + math.cos(math.pi * step / 100)) / 2
        assert values[step] == pytest.approx(expected)


def test_wsd_holds_the_peak_until_the_decay():
    values = factors(Wsd, 100, warmup_steps=10, decay=0.2)
    assert values[10:81] == [1.0] * 71
    assert values[90] == pytest.approx(0.5)
    assert values[99] == pytest.approx(0.05)


def test_constant_stays_at_the_peak():
    assert factors(Constant, 30) == [1.0] * 30


@pytest.mark.parametrize("cls", ALL)
def test_both_kinds_of_warmup_are_refused(cls):
    with pytest.raises(ValidationError, match="not both"):
        cls.Options(warmup=0.1, warmup_steps=5)


@pytest.mark.parametrize("cls", ALL)
def test_a_warmup_as_long_as_the_run_is_a_problem(cls):
    component = cls(cls.Options(warmup_steps=50))
    (problem,) = component.forge_preflight(run=run_of(50))
    assert "warmup_steps" in problem.key
    assert "50 steps" in problem.message
    assert component.forge_preflight(run=run_of(500)) == []


def test_a_warmup_is_not_judged_before_the_length_is_known():
    assert Cosine(Cosine.Options(warmup_steps=50)).forge_preflight(run=run_of(0)) == []


def test_wsd_phases_that_overlap_are_a_problem():
    component = Wsd(Wsd.Options(warmup_steps=60, decay=0.5))
    (problem,) = component.forge_preflight(run=run_of(100))
    assert problem.key.endswith("decay")
    assert "110 steps" in problem.message


def test_wsd_fractions_of_more_than_the_whole_run_are_refused_in_the_recipe():
    with pytest.raises(ValidationError, match="more than the whole run"):
        Wsd.Options(warmup=0.6, decay=0.5)
    assert Wsd.Options(warmup=0.5, decay=0.5).decay == 0.5


@pytest.mark.parametrize("cls", ALL)
def test_phases_that_do_not_fit_are_refused_when_the_length_is_known_late(cls):
    component = cls(cls.Options(warmup_steps=50))
    with pytest.raises(RecipeError, match="50 steps does not end before the schedule's 20 steps"):
        component.forge_build_schedule(run=run_of(20))
