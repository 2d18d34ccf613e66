"""The loop's state survives JSON; seeds depend on place and nothing else."""

from __future__ import annotations

import json

import pytest

from llmforge.errors import CheckpointError
from llmforge.run.seeds import MODEL, TRAINING, derive
from llmforge.run.trainer_state import Best, TrainerState


def test_the_state_comes_back_from_json_as_it_was() -> None:
    state = TrainerState(
        step=7,
        sequences=56,
        recent_losses=[0.1 + 0.2],
        grad_norm=1 / 3,
        best=Best("val/loss", 2.5, 5),
        stale_evaluations=2,
        last_evaluation={"val/loss": 2.75},
        boundary_done=False,
        row={"step": 7, "train/loss": 2 / 3},
        samples_due=True,
        finished={"state": "completed", "reason": "all 7 steps taken"},
        components={"callback:counter": {"count": 3}},
    )
    body = json.loads(json.dumps(state.to_json({"scale": 8})))
    assert body["engine"] == {"scale": 8}
    assert TrainerState.from_json(body) == state


def test_a_state_of_an_older_version_gets_defaults_for_what_it_lacks() -> None:
    body = TrainerState(step=3).to_json({})
    del body["samples_due"]
    assert TrainerState.from_json(body) == TrainerState(step=3)


def test_a_state_of_a_newer_format_is_refused() -> None:
    body = TrainerState().to_json({}) | {"format_version": 99}
    with pytest.raises(CheckpointError, match="format 99"):
        TrainerState.from_json(body)


def test_two_states_share_nothing() -> None:
    first = TrainerState()
    first.epoch["targets"] = 5
    first.recent_losses.append(2.5)
    assert TrainerState() == TrainerState(epoch={"loss_sum": 0.0, "targets": 0}, recent_losses=[])


def test_a_seed_depends_on_run_stream_and_place_alone() -> None:
    assert derive(7, TRAINING, 3, 1) == derive(7, TRAINING, 3, 1)
    others = {
        derive(8, TRAINING, 3, 1),
        derive(7, MODEL, 3, 1),
        derive(7, MODEL),
        derive(7, TRAINING, 3, 0),
        derive(7, TRAINING, 31),
    }
    assert len(others | {derive(7, TRAINING, 3, 1)}) == 6
    assert all(0 <= seed < 1 << 63 for seed in others)


def test_seeds_stay_what_they_were_when_runs_were_started() -> None:
    # A change here would change what every existing run computes when it is resumed.
    assert derive(1337, "training", 0, 0) == SEED_OF_THE_FIRST_BATCH


SEED_OF_THE_FIRST_BATCH = 7249999342034723467
