"""``forge generate`` from where a run was tracked, on a machine that has nothing of the run."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb
from forge_process import Workplace
from mlflow_server import MlflowServer, shared_server
from wandb_server import WandbServer

SHORT = {"train.max_steps": "10", "checkpoint.every": "5", "tracker.close_timeout": "60"}


@pytest.fixture
def mlflow_server() -> MlflowServer:
    """The MLflow server of this test session."""
    server = shared_server()
    return server if server.answers() else server.start()


@pytest.fixture
def wandb_api() -> Iterator[WandbServer]:
    """The stand-in for the W&B service."""
    server = WandbServer().start()
    yield server
    wandb.teardown()
    server.kill()


def tracked(workplace: Workplace, environment: dict[str, str], **settings: str) -> Workplace:
    """Return the place with a tracker that keeps the best checkpoint, and a home of its own."""
    own = {key.replace("__", "."): text for key, text in settings.items()}
    home = {"HOME": str(workplace.path / "home")}
    return dataclasses.replace(
        workplace, settings={**SHORT, **own}, environment={**environment, **home}
    )


def texts(place: Workplace, address: str) -> tuple[list[str], int, str]:
    """Return what is generated from an address, the step, and everything printed."""
    output = place.forge_here("generate", address, "-p", "The river", "--json", "--seed", "7")
    document = json.loads(output[output.index("{") :])
    return [item["text"] for item in document["completions"]], document["step"], output


def lose(place: Workplace) -> None:
    """Delete everything of the run, and all that was cached."""
    shutil.rmtree(place.run.root)
    shutil.rmtree(place.path / "cache")


def test_from_an_mlflow_run(workplace: Workplace, mlflow_server: MlflowServer) -> None:
    experiment = workplace.path.parent.name
    place = tracked(
        workplace,
        {"MLFLOW_TRACKING_URI": mlflow_server.url},
        tracker__names='["mlflow"]',
        tracker__mlflow__log_checkpoints="best",
        tracker__mlflow__experiment=experiment,
    )
    place.train_here()
    identity = json.loads((place.run.trackers / "mlflow" / "run.json").read_text())["run_id"]
    expected, step, output = texts(place, f"mlflow:{identity}")
    assert "fetching" not in output  # it is here
    lose(place)

    assert texts(place, f"mlflow:{identity}")[:2] == (expected, step)
    found, again, output = texts(place, f"mlflow:{identity}@{step}")
    assert (found, again) == (expected, step)
    assert "fetching" not in output  # it was kept
    assert not place.run.root.exists()
    check_mistakes(place, mlflow_server, identity)


def check_mistakes(place: Workplace, server: MlflowServer, identity: str) -> None:
    """Check what is said of ids, steps and stores that are not there."""
    output = place.forge_here("generate", "mlflow:nonsense", "-p", "x", expect=1)
    assert f"forge: {server.url} has no run 'nonsense'" in output
    output = place.forge_here("generate", f"mlflow:{identity}@7", "-p", "x", expect=1)
    assert "has no checkpoint '7'" in output
    nowhere = {**place.environment, "MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}
    lost = dataclasses.replace(place, environment=nowhere)
    output = lost.forge_here("generate", f"mlflow:{identity}", "-p", "x", expect=1)
    assert "the MLflow server at http://127.0.0.1:9 does not answer" in output
    none = dataclasses.replace(place, environment={**nowhere, "MLFLOW_TRACKING_URI": ""})
    output = none.forge_here("generate", f"mlflow:{identity}", "-p", "x", expect=1)
    assert f"there is no MLflow store {place.run.root / 'mlflow.db'}" in output
    assert not place.run.root.exists()


@pytest.mark.slow
def test_from_a_wandb_run(workplace: Workplace, wandb_api: WandbServer) -> None:
    place = tracked(
        workplace,
        wandb_api.environment,
        tracker__names='["wandb"]',
        tracker__wandb__project="mine",
        tracker__wandb__log_checkpoints="all",
    )
    place.train_here()
    identity = json.loads((place.run.trackers / "wandb" / "run.json").read_text())["id"]
    address = f"wandb:us/mine/{identity}"
    expected, step, _ = texts(place, address)
    lose(place)

    found, again, output = texts(place, address)
    assert (found, again) == (expected, step)
    assert f"fetching step {step} of tiny from {wandb_api.url}/us/mine/runs/{identity}" in output
    assert texts(place, f"{address}@5")[1] == 5
    assert list(Path(place.environment["HOME"]).rglob("*wandb*")) == []
