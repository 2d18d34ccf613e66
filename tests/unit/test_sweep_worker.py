"""A worker on the simulated surface: order, reuse, seeds, pruning, failures, extension, retry."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sweep_parts import BATCH, GRID, SPACE, make_goal, open_ledger, told

from llmforge.interfaces import Dimension, Point, Space
from llmforge.sweeps.next_trial import Done, Goal
from llmforge.sweeps.trials import Attempt, Result, Trial, points
from llmforge.sweeps.worker import Worker
from llmforge.testing import SimulatedTrials
from llmforge.testing.simulated import level


def work(folder: Path, goal: Goal, **how: Any) -> Done | None:
    """Let one worker do all there is to do."""
    executor = SimulatedTrials(folder / "simulated", **how)
    return Worker(goal, open_ledger(folder), executor, poll_seconds=0.01).run()


def trials(folder: Path) -> list[Trial]:
    return open_ledger(folder).trials()


def test_a_sweep_tries_its_points_and_says_why_it_is_done(tmp_path: Path) -> None:
    done = work(tmp_path, make_goal(max_trials=5))
    assert done == Done("all 5 trials are done")
    found = trials(tmp_path)
    assert told(found) == [(number, 0, "completed") for number in range(5)]
    assert [trial.value for trial in found] == pytest.approx(
        [level(trial.parameters) + 3 * 2.718281828**-4 for trial in found]
    )


def test_what_a_process_wrote_last_counts_when_it_is_found_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    goal, other = make_goal(max_trials=1), open_ledger(tmp_path)
    parameters = goal.sweeper.propose(0, [])
    assert parameters is not None
    other.begin(0, 0, 0, parameters)

    def ends(attempt: Attempt) -> bool:
        """Finish the trial after it was read as running, and before its process is looked at."""
        other.finish(attempt.entry, Result(outcome="completed", value=1.0))
        return True

    worker = Worker(goal, open_ledger(tmp_path), SimulatedTrials(tmp_path / "s"))
    monkeypatch.setattr(worker._lives, "is_dead", ends)
    worker.run()
    (trial,) = trials(tmp_path)
    assert (trial.state, len(trial.attempts)) == ("completed", 1)


class Raw:
    """Proposes values as a generator of random numbers makes them; a sweeper of somebody else."""

    def prune(self, point: Point, others: Sequence[Point]) -> str | None:
        del point, others
        return None

    def propose(self, number: int, history: Sequence[Point]) -> Mapping[str, Any]:
        del history
        generator = random.Random(number)
        return {
            item.key: generator.uniform(item.low, item.high)
            if item.kind == "float"
            else item.extremes()[0]
            for item in SPACE.dimensions
            if not item.when
        }


def test_whatever_a_sweeper_proposes_has_few_digits_before_it_is_used(tmp_path: Path) -> None:
    goal = make_goal(max_trials=4)
    work(tmp_path, replace(goal, sweeper=Raw()))
    values = [
        value
        for trial in trials(tmp_path)
        for value in trial.parameters.values()
        if isinstance(value, float)
    ]
    assert len(values) >= 4
    assert [float(f"{value:.4g}") for value in values] == values


def test_the_same_command_again_does_nothing(tmp_path: Path) -> None:
    work(tmp_path, make_goal(max_trials=3))
    before = trials(tmp_path)
    work(tmp_path, make_goal(max_trials=3))
    assert trials(tmp_path) == before


def test_more_trials_later_run_only_the_new_ones_and_are_those_of_a_longer_sweep(
    tmp_path: Path,
) -> None:
    goal = make_goal("optuna", max_trials=4, options={"startup_points": 2})
    work(tmp_path / "a", goal)
    before = trials(tmp_path / "a")
    longer = make_goal("optuna", max_trials=7, options={"startup_points": 2})
    work(tmp_path / "a", longer)
    after = trials(tmp_path / "a")
    assert after[:4] == before
    work(tmp_path / "b", longer)
    assert [item.parameters for item in trials(tmp_path / "b")] == [
        item.parameters for item in after
    ]


def test_a_value_added_to_a_grid_runs_only_its_combinations(tmp_path: Path) -> None:
    assert work(tmp_path, make_goal("grid", GRID, max_trials=99)) == Done(
        "every point of the space was tried: 6"
    )
    batch = Dimension(key=BATCH, kind="choice", choices=(2, 4, 8, 16))
    wider = Space(dimensions=(batch, GRID.dimensions[1]))
    work(tmp_path, make_goal("grid", wider, max_trials=99))
    found = trials(tmp_path)
    assert len(found) == 8
    assert [item.parameters[BATCH] for item in found[6:]] == [2, 2]


def test_a_smaller_space_keeps_what_still_fits_and_fills_up_to_the_budget(tmp_path: Path) -> None:
    work(tmp_path, make_goal(max_trials=8))
    batch = Dimension(key=BATCH, kind="choice", choices=(16,))
    smaller = Space(dimensions=(batch, SPACE.dimensions[1]))
    kept = len(points(trials(tmp_path), smaller))
    assert 0 < kept < 8
    work(tmp_path, make_goal(space=smaller, max_trials=8))
    found = trials(tmp_path)
    assert len(points(found, smaller)) == 8
    assert len(found) == 8 + 8 - kept


def test_seeds_repeat_each_point_before_the_next_and_their_mean_counts(tmp_path: Path) -> None:
    work(tmp_path, make_goal(max_trials=2, seeds=3))
    found = trials(tmp_path)
    assert told(found) == [
        (number, repeat, "completed") for number in range(2) for repeat in range(3)
    ]
    values = [item.value or 0 for item in found[:3]]
    assert len(set(values)) == 3
    assert points(found, SPACE)[0].value == pytest.approx(sum(values) / 3)


def test_more_seeds_later_run_only_the_new_ones(tmp_path: Path) -> None:
    work(tmp_path, make_goal(max_trials=2))
    work(tmp_path, make_goal(max_trials=2, seeds=2))
    assert told(trials(tmp_path)) == [
        (0, 0, "completed"),
        (0, 1, "completed"),
        (1, 0, "completed"),
        (1, 1, "completed"),
    ]


@pytest.mark.parametrize("name", ["random", "optuna"])
def test_no_point_of_a_small_space_is_tried_twice(tmp_path: Path, name: str) -> None:
    space = Space(dimensions=(Dimension(key=BATCH, kind="choice", choices=(2, 4, 8, 16)),))
    done = work(tmp_path, make_goal(name, space, max_trials=9))
    assert done == Done("every point of the space was tried: 4")
    assert {item.parameters[BATCH] for item in trials(tmp_path)} == {2, 4, 8, 16}


def test_a_run_that_another_sweep_completed_is_reused(tmp_path: Path) -> None:
    work(tmp_path, make_goal("grid", GRID))
    first = trials(tmp_path)
    (tmp_path / "journal.log").rename(tmp_path / "other.log")
    work(tmp_path, make_goal("grid", GRID))
    again = trials(tmp_path)
    assert all(item.result is not None and item.result.reused for item in again)
    assert [item.value for item in again] == [item.value for item in first]


def test_pruned_trials_stop_early_with_a_reason_and_the_best_is_found(tmp_path: Path) -> None:
    options = {"pruner": "asha", "steps_per_rung": 10, "reduction": 2, "rungs": 3}
    goal = make_goal(max_trials=16, options=options)
    work(tmp_path, goal, steps=90, every=10)
    found = trials(tmp_path)
    pruned = [item for item in found if item.state == "pruned"]
    assert len(pruned) >= 4
    assert all(max(item.curve) < 90 and "rung" in item.last.result.reason for item in pruned)
    best = min(found, key=lambda item: level(item.parameters))
    assert best.state == "completed"


def test_a_pruned_trial_goes_on_from_where_it_stopped_when_it_is_asked_to(tmp_path: Path) -> None:
    options = {"pruner": "asha", "steps_per_rung": 10, "reduction": 2, "rungs": 3}
    goal = make_goal(max_trials=8, options=options)
    work(tmp_path, goal, steps=90, every=10)
    ledger = open_ledger(tmp_path)
    pruned = [item for item in ledger.trials() if item.state == "pruned"]
    for trial in pruned:
        ledger.requeue(trial, prunable=False, reason="asked for")
    work(tmp_path, goal, steps=90, every=10)
    again = [item for item in trials(tmp_path) if len(item.attempts) > 1]
    assert {item.number for item in again} >= {item.number for item in pruned}
    assert {item.state for item in trials(tmp_path)} == {"completed"}
    import json

    for path in (tmp_path / "simulated").glob("*.json"):
        assert json.loads(path.read_bytes())["trained"] == 90


def fails_at_four(parameters: Mapping[str, Any]) -> str | None:
    return "out of memory" if parameters[BATCH] == 4 else None


def test_a_failed_trial_is_kept_with_its_reason_and_the_sweep_goes_on(tmp_path: Path) -> None:
    done = work(tmp_path, make_goal("grid", GRID), failing=fails_at_four)
    assert done is not None
    assert not done.failed
    found = trials(tmp_path)
    failed = [item for item in found if item.state == "failed"]
    assert [item.result.reason for item in failed if item.result] == ["out of memory"] * 2
    assert len(found) == 6


def test_more_failures_than_allowed_end_the_sweep(tmp_path: Path) -> None:
    done = work(tmp_path, make_goal("grid", GRID, max_failures=1), failing=fails_at_four)
    assert done == Done("2 trials failed, and max_failures is 1", failed=True)
    assert len(trials(tmp_path)) == 2


def test_retrying_runs_the_failed_ones_alone(tmp_path: Path) -> None:
    work(tmp_path, make_goal("grid", GRID), failing=fails_at_four)
    ledger = open_ledger(tmp_path)
    for trial in ledger.trials():
        if trial.state == "failed":
            ledger.requeue(trial, prunable=True, reason="retried")
    work(tmp_path, make_goal("grid", GRID))
    found = trials(tmp_path)
    assert {item.state for item in found} == {"completed"}
    assert [len(item.attempts) for item in found] == [3, 3, 1, 1, 1, 1]


def test_a_worker_that_is_asked_to_stop_leaves_its_trial_for_the_next(tmp_path: Path) -> None:
    goal = make_goal(max_trials=3)
    asked = iter([False] * 9 + [True] * 1000)
    executor = SimulatedTrials(tmp_path / "simulated")
    stopped = Worker(goal, open_ledger(tmp_path), executor, stop=lambda: next(asked)).run()
    assert stopped is None
    assert trials(tmp_path)[-1].state == "waiting"
    work(tmp_path, goal)
    assert {item.state for item in trials(tmp_path)} == {"completed"}
    undisturbed = tmp_path / "undisturbed"
    work(undisturbed, goal)
    assert [item.parameters for item in trials(undisturbed)] == [
        item.parameters for item in trials(tmp_path)
    ]


def test_hours_of_training_are_a_budget(tmp_path: Path) -> None:
    done = work(tmp_path, make_goal(max_trials=50, max_hours=1e-9))
    assert done is not None
    assert "max_hours" in done.reason
    assert len(trials(tmp_path)) == 1
