"""A whole sweep as its trackers show it: MLflow's server, the stand-in for W&B, TensorBoard."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from forge_process import RECIPE
from mlflow_server import shared_server
from sweep_place import SWEEP, SweepPlace
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb_server import WandbServer

TRACKERS = """
[tracker.wandb]
project = "swept"
[tracker.mlflow]
tracking_uri = "{mlflow}"
experiment = "{experiment}"
"""


@pytest.mark.slow
def test_trials_are_nested_in_mlflow_grouped_in_wandb_and_compared_in_tensorboard(
    tmp_path: Path,
) -> None:
    mlflow, wandb = shared_server(), WandbServer().start()
    if not mlflow.answers():
        mlflow.start()
    # unpruned: of two trials that learn alike, the later one to a rung may stop there
    sweep = SWEEP.replace('pruner = "asha"', 'pruner = "none"')
    recipe = RECIPE.replace("max_steps = 60", "max_steps = 20") + sweep
    place = SweepPlace(
        tmp_path / "place",
        {"tracker.names": json.dumps(["mlflow", "wandb", "tensorboard"])},
        environment=wandb.environment,
        recipe=recipe + TRACKERS.format(mlflow=mlflow.url, experiment=tmp_path.name),
    )
    try:
        place.sweep("--workers", "2", "--max-trials", "2")
    finally:
        wandb.kill()
    trials = {trial["run"]: trial for trial in place.trials()}
    assert {trial["state"] for trial in trials.values()} == {"completed"}

    experiment = mlflow.client.get_experiment_by_name(tmp_path.name)
    assert experiment is not None
    runs = mlflow.client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run is not parent]
    assert parent.info.run_name == "s"
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    found = {run.data.tags["llmforge.run"]: run.data.metrics["val/loss"] for run in children}
    assert found == pytest.approx({name: trial["value"] for name, trial in trials.items()})

    assert {run.info["groupName"] for run in wandb.runs.values()} == {"s"}
    assert len(wandb.runs) == 2

    for trial in trials.values():
        files = EventAccumulator(str(place.run_of(trial).trackers / "tensorboard"))
        files.Reload()
        assert "_hparams_/session_start_info" in files.summary_metadata
