"""The built-in sweepers: what they propose, that they propose it again, and when they prune."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from sweep_parts import BATCH, GRID, RATE, SPACE, make_sweeper

from llmforge.interfaces import Dimension, Point, Space
from llmforge.plugins import load
from llmforge.testing.simulated import level, loss_at

SAMPLERS = ("tpe", "gp", "cmaes", "qmc", "random")

CONDITIONAL = Space(
    dimensions=(
        Dimension(key="optimizer.name", kind="choice", choices=("adamw", "muon")),
        Dimension(key=RATE, kind="float", low=1e-4, high=1e-1, log=True),
        Dimension(
            key="optimizer.muon.ns_steps",
            kind="int",
            low=1,
            high=9,
            step=2,
            when={"optimizer.name": ("muon",)},
        ),
    )
)


def searched(sweeper: Any, count: int) -> list[Point]:
    """Return what a sweeper proposes when every point is tried in turn."""
    history: list[Point] = []
    for number in range(count):
        parameters = sweeper.propose(number, list(history))
        if parameters is None:
            break
        value = level(parameters)
        history.append(Point(number=number, parameters=parameters, state="completed", value=value))
    return history


def test_a_grid_is_every_combination_once_and_then_nothing() -> None:
    tried = [point.parameters for point in searched(make_sweeper("grid", GRID), 10)]
    expected = itertools.product((4, 8, 16), (1e-3, 1e-2))
    assert tried == [{BATCH: batch, RATE: rate} for batch, rate in expected]


def test_a_value_added_to_a_grid_adds_only_its_own_combinations() -> None:
    history = searched(make_sweeper("grid", GRID), 10)
    batch, rate = GRID.dimensions
    wider = Space(
        dimensions=(batch, Dimension(key=RATE, kind="choice", choices=(1e-3, 3e-3, 1e-2)))
    )
    sweeper = make_sweeper("grid", wider)
    added = []
    while (parameters := sweeper.propose(len(history), history)) is not None:
        history.append(Point(number=len(history), parameters=parameters, state="running"))
        added.append(parameters)
    assert added == [{BATCH: size, RATE: 3e-3} for size in (4, 8, 16)]
    assert rate.choices == (1e-3, 1e-2)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_each_sampler_repeats_itself_and_stays_inside_a_conditional_space(sampler: str) -> None:
    count = 7 if sampler == "gp" else 12  # it takes its time
    first = searched(make_sweeper("optuna", CONDITIONAL, sampler=sampler), count)
    again = searched(make_sweeper("optuna", CONDITIONAL, sampler=sampler), count)
    assert first == again
    assert all(CONDITIONAL.contains(point.parameters) for point in first)
    assert len({str(point.parameters) for point in first}) == count
    other = searched(make_sweeper("optuna", CONDITIONAL, sampler=sampler, seed=1), 3)
    assert other != first[:3]


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cmaes"])
def test_a_sampler_that_learns_does_better_in_the_end_than_at_first(sampler: str) -> None:
    space = Space(
        dimensions=(
            Dimension(key=RATE, kind="float", low=1e-5, high=1.0, log=True),
            Dimension(key="model.transformer.width", kind="float", low=16, high=4096, log=True),
        )
    )
    count = 15 if sampler == "gp" else 40
    tried = searched(make_sweeper("optuna", space, sampler=sampler), count)
    values = [point.value or 0 for point in tried]
    assert sum(values[-5:]) < 0.7 * sum(values[:5])


def test_qmc_covers_a_range_more_evenly_than_chance() -> None:
    space = Space(dimensions=(Dimension(key=RATE, kind="float", low=0.0, high=1.0),))
    points = searched(make_sweeper("optuna", space, sampler="qmc"), 33)[1:]
    cells = {int(point.parameters[RATE] * 16) for point in points}
    assert len(cells) == 16


def test_maximizing_turns_the_search_round() -> None:
    space = Space(dimensions=(Dimension(key=RATE, kind="float", low=0.0, high=1.0),))
    sweeper = make_sweeper("optuna", space, direction="maximize")
    history: list[Point] = []
    for number in range(20):
        parameters = sweeper.propose(number, history)
        assert parameters is not None
        value = parameters[RATE]
        history.append(Point(number=number, parameters=parameters, state="completed", value=value))
    assert sum(point.value or 0 for point in history[10:]) > 7.5


def test_random_draws_whole_numbers_on_a_log_scale_within_their_ends() -> None:
    space = Space(dimensions=(Dimension(key=BATCH, kind="int", low=1, high=64, step=1, log=True),))
    sweeper = make_sweeper("random", space)
    drawn = [sweeper.propose(number, ())[BATCH] for number in range(300)]
    assert all(isinstance(value, int) and 1 <= value <= 64 for value in drawn)
    assert 100 < sum(value <= 8 for value in drawn) < 200


# Pruning -----------------------------------------------------------------------------------------


def curve(rate: float, *, until: int = 90, every: int = 10) -> dict[int, float]:
    """Return the simulated losses of a learning rate over 90 steps."""
    return {step: loss_at({RATE: rate}, step / 90) for step in range(every, until + 1, every)}


def points(*curves: dict[int, float], state: Any = "completed") -> list[Point]:
    return [
        Point(number=number, parameters={}, state=state, curve=values)
        for number, values in enumerate(curves)
    ]


def test_without_a_pruner_everything_goes_on() -> None:
    sweeper = make_sweeper("random")
    assert sweeper.prune(points({10: 9.0})[0], points({10: 1.0})) is None


def test_the_median_rule_waits_and_then_stops_what_is_worse_than_half() -> None:
    sweeper = make_sweeper("random", pruner="median", startup_trials=3, warmup_steps=10)
    good, fair, bad = curve(2e-3), curve(1e-2), curve(1e-1)
    worst = Point(number=9, parameters={}, state="running", curve=curve(1.0, until=30))
    assert sweeper.prune(worst, points(good, fair)) is None
    early = Point(number=9, parameters={}, state="running", curve=curve(1.0, until=10))
    assert sweeper.prune(early, points(good, fair, bad)) is None
    reason = sweeper.prune(worst, points(good, fair, bad))
    assert reason is not None
    assert "median" in reason
    best = Point(number=9, parameters={}, state="running", curve=curve(2.1e-3, until=30))
    assert sweeper.prune(best, points(good, fair, bad)) is None


RATES = [10 ** (-4 + 0.4 * index) for index in range(9)]


@pytest.mark.parametrize("pruner", ["median", "asha"])
@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_a_rule_decides_as_optunas_own_pruner_does(pruner: str, direction: str) -> None:
    import optuna

    ours = make_sweeper(
        "random",
        direction=direction,
        pruner=pruner,
        startup_trials=4,
        steps_per_rung=10,
        reduction=3,
        rungs=3,
    )
    theirs: Any = {
        "median": optuna.pruners.MedianPruner(n_startup_trials=4),
        "asha": optuna.pruners.SuccessiveHalvingPruner(min_resource=10, reduction_factor=3),
    }[pruner]
    study = optuna.create_study(direction=direction, pruner=theirs)
    sign = 1 if direction == "minimize" else -1
    seen: list[Point] = []
    stopped = 0
    for number, rate in enumerate([*RATES, *reversed(RATES)]):
        trial = study.ask()
        values: dict[int, float] = {}
        for step, loss in curve(rate).items():
            values[step] = sign * loss
            trial.report(values[step], step)
            point = Point(number=number, parameters={}, state="running", curve=dict(values))
            prunes = ours.prune(point, seen) is not None
            assert prunes == trial.should_prune(), (number, step)
            if prunes:
                break
        state: Any = "completed" if max(values) == 90 else "pruned"
        stopped += state == "pruned"
        study.tell(
            trial,
            values[max(values)] if state == "completed" else None,
            state=None if state == "completed" else optuna.trial.TrialState.PRUNED,
        )
        seen.append(Point(number=number, parameters={}, state=state, curve=values))
    assert 0 < stopped < 18


def test_what_a_rung_stopped_goes_on_once_enough_others_are_worse() -> None:
    sweeper = make_sweeper("random", pruner="asha", steps_per_rung=10, reduction=3)
    stopped = Point(number=1, parameters={}, state="pruned", curve={10: 4.0})
    better = points({10: 3.0})
    assert sweeper.prune(stopped, better) is not None
    worse = points({10: 3.0}, {10: 5.0}, {10: 5.0}, {10: 6.0}, {10: 6.0})
    assert sweeper.prune(stopped, worse) is None


def test_hyperband_deals_trials_out_over_brackets_that_judge_at_different_steps() -> None:
    sweeper = make_sweeper("random", pruner="hyperband", steps_per_rung=10, reduction=3)
    others = [
        Point(number=number, parameters={}, state="completed", curve={10: 1.0, 30: 1.0, 90: 1.0})
        for number in range(100, 200)
    ]
    judged = {}
    for number in range(100):
        for step in (10, 30, 90):
            values = {at: 9.0 for at in (10, 30, 90) if at <= step}
            point = Point(number=number, parameters={}, state="running", curve=values)
            if sweeper.prune(point, others) is not None:
                judged[number] = step
                break
    steps = list(judged.values())
    assert set(steps) == {10, 30, 90}
    assert steps.count(10) > steps.count(30) > steps.count(90)


def test_rungs_need_to_be_told_how_far_the_first_is() -> None:
    with pytest.raises(ValueError, match="needs steps_per_rung"):
        load("sweep", "grid").Options(pruner="asha")


def test_the_search_space_of_the_tests_is_not_a_grid() -> None:
    assert SPACE.dimensions[1].values() is None
