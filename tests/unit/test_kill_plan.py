"""Where a proof kills: what is half done first, in the order of the run, by the seed alone."""

from __future__ import annotations

import random

import pytest

from llmforge.proof.kill_plan import Target, Timeline, plan_kills
from llmforge.proof.phases import (
    EVALUATING,
    FINISHING,
    PHASES,
    SAVING,
    STARTING,
    STEPPING,
    UPLOADING,
)


def timeline(*phases: str) -> Timeline:
    """Return a run of 12 steps that was seen doing ``phases`` at steps 4, 8 and 12."""
    found = Timeline()
    found.seen = {
        phase: {step: (float(step), step + 2.0) for step in (4, 8, 12)} for phase in phases
    }
    return found


@pytest.mark.parametrize("seed", range(20))
def test_three_kills_are_in_what_is_half_done(seed: int) -> None:
    targets = plan_kills(timeline(*PHASES), kills=3, draw=random.Random(seed))
    assert {target.phase for target in targets} == {SAVING, UPLOADING, EVALUATING}
    assert [target.step for target in targets] == sorted(target.step for target in targets)
    assert all(0 <= target.delay < 2 for target in targets)


@pytest.mark.parametrize("seed", range(20))
def test_six_kills_have_every_phase_and_the_end_last(seed: int) -> None:
    targets = plan_kills(timeline(*PHASES), kills=6, draw=random.Random(seed))
    phases = [target.phase for target in targets]
    assert sorted(phases) == sorted(PHASES)
    assert [phase for phase in phases if phase != STARTING][-1] == FINISHING


def test_more_kills_repeat_what_the_run_is_mostly_at() -> None:
    targets = plan_kills(timeline(*PHASES), kills=40, draw=random.Random(1))
    phases = [target.phase for target in targets]
    assert len(phases) == 40
    assert phases.count(STARTING) == phases.count(FINISHING) == 1
    assert min(map(phases.count, (SAVING, UPLOADING, EVALUATING, STEPPING))) > 2


def test_what_was_never_seen_is_no_target() -> None:
    targets = plan_kills(timeline(STARTING, STEPPING), kills=5, draw=random.Random(1))
    assert {target.phase for target in targets} == {STARTING, STEPPING}


def test_equal_seeds_give_equal_targets() -> None:
    def drawn(seed: int) -> list[Target]:
        return plan_kills(timeline(*PHASES), kills=9, draw=random.Random(seed))

    assert drawn(3) == drawn(3)
    assert drawn(3) != drawn(4)


def test_a_target_is_reached_in_its_phase_at_its_step_or_later() -> None:
    target = Target(SAVING, 8, 0.0)
    assert not target.reached({STEPPING: 9})
    assert not target.reached({SAVING: 4, STEPPING: 9})
    assert target.reached({SAVING: 8})
    assert target.reached({SAVING: 12, STEPPING: 12})
