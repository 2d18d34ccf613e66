"""One recipe, its trackers swapped and combined by ``tracker.names`` alone, each read back."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from forge_process import RECIPE, Workplace, environment
from mlflow_server import MlflowServer, shared_server
from wandb_server import WandbServer

TRACKERS = """
[tracker.wandb]
project = "swapped"
mode = "{mode}"
[tracker.mlflow]
tracking_uri = "{mlflow}"
experiment = "{experiment}"
"""
Curves = dict[str, list[tuple[int, float]]]


@pytest.fixture
def wandb_api() -> Iterator[WandbServer]:
    """The stand-in for the W&B service."""
    server = WandbServer().start()
    yield server
    server.kill()


@pytest.fixture
def mlflow_server() -> MlflowServer:
    """The MLflow server of this test session."""
    server = shared_server()
    return server if server.answers() else server.start()


@pytest.fixture
def place(tmp_path: Path, wandb_api: WandbServer, mlflow_server: MlflowServer) -> Workplace:
    """A place with the recipe; no test here changes anything of it but the trackers' names."""
    own = TRACKERS.format(mode="online", mlflow=mlflow_server.url, experiment=tmp_path.name)
    short = RECIPE.replace("max_steps = 60", "max_steps = 20")
    settings = {"tracker.close_timeout": "60"}
    return Workplace(
        tmp_path / "place", settings, environment=wandb_api.environment, recipe=short + own
    )


def trained(place: Workplace, name: str, trackers: list[str]) -> tuple[Workplace, str]:
    """Train a copy of the place with these trackers; return it and what was printed."""
    copy = place.copy(place.path.with_name(name))
    output = copy.train_here("--set", f"tracker.names={json.dumps(trackers)}")
    for tracker in trackers:
        assert f"tracker {tracker}: " in output
    assert "still in the journal" not in output
    return copy, output


def expected(place: Workplace) -> Curves:
    """Return what ``metrics.jsonl`` has."""
    names = ("train/loss", "val/loss", "lr")
    return {name: [(row["step"], row[name]) for row in place.rows if name in row] for name in names}


def in_tensorboard(place: Workplace) -> Curves:
    """Return what TensorBoard's reader finds, in its single precision."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    files = EventAccumulator(str(place.run.trackers / "tensorboard"), {"scalars": 0, "tensors": 0})
    files.Reload()
    assert any("The river" in tag or "samples" in tag for tag in files.Tags()["tensors"])
    return {
        name: [(event.step, event.value) for event in files.Scalars(name)]
        for name in expected(place)
    }


def in_csv(place: Workplace) -> Curves:
    """Return what the CSV file has."""
    with (place.run.trackers / "csv" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        name: [(int(row["step"]), float(row[name])) for row in rows if row[name]]
        for name in expected(place)
    }


def in_mlflow(place: Workplace, server: MlflowServer, experiment: str) -> Curves:
    """Return what MLflow's client gets from the server for the newest run."""
    found = server.client.get_experiment_by_name(experiment)
    assert found is not None
    run = server.client.search_runs([found.experiment_id])[0]
    assert run.info.status == "FINISHED"
    assert run.data.params["train.max_steps"] == "20"
    files = {item.path for item in server.client.list_artifacts(run.info.run_id)}
    assert {"recipe.toml", "samples.json", "plots"} <= files
    histories = {
        name: server.client.get_metric_history(run.info.run_id, name) for name in expected(place)
    }
    return {
        name: sorted((metric.step, metric.value) for metric in history)
        for name, history in histories.items()
    }


def in_wandb(place: Workplace, server: WandbServer) -> Curves:
    """Return what arrived at the W&B service."""
    identity = json.loads((place.run.trackers / "wandb" / "run.json").read_text())
    run = server.runs[identity["id"]]
    assert run.config["train"]["max_steps"] == 20
    assert run.ends[-1] == 0
    table = next(row["samples"] for row in reversed(run.rows) if "samples" in row)
    assert b"The river" in run.files[table["path"]]
    return {
        name: [(row["_step"], row[name]) for row in run.rows if name in row]
        for name in expected(place)
    }


def check_equal(found: Curves, place: Workplace) -> None:
    """Check that a tracker has every value of ``metrics.jsonl`` once, to single precision."""
    for name, curve in expected(place).items():
        assert [step for step, _ in found[name]] == [step for step, _ in curve]
        assert [value for _, value in found[name]] == pytest.approx([v for _, v in curve], rel=1e-6)


def test_trackers_swapped_and_combined_by_their_names_alone(
    place: Workplace, wandb_api: WandbServer, mlflow_server: MlflowServer, tmp_path: Path
) -> None:
    plain, _ = trained(place, "plain", ["tensorboard"])
    check_equal(in_tensorboard(plain), plain)
    other, _ = trained(place, "other", ["mlflow", "csv"])
    check_equal(in_mlflow(other, mlflow_server, tmp_path.name), other)
    check_equal(in_csv(other), other)
    assert not wandb_api.runs

    every, _ = trained(place, "every", ["tensorboard", "csv", "mlflow", "wandb"])

    check_equal(in_tensorboard(every), every)
    check_equal(in_csv(every), every)
    check_equal(in_mlflow(every, mlflow_server, tmp_path.name), every)
    check_equal(in_wandb(every, wandb_api), every)
    assert plain.result() == other.result() == every.result()


def test_a_run_written_offline_is_whole_when_wandb_syncs_it(
    place: Workplace, wandb_api: WandbServer
) -> None:
    offline = place.recipe.replace('mode = "online"', 'mode = "offline"')
    (place.path / "recipe.toml").write_text(offline)
    place, output = trained(place, "offline", ["wandb"])
    assert not wandb_api.requests
    (folder,) = (place.run.trackers / "wandb" / "wandb").glob("offline-run-*")
    assert f"wandb sync {folder.parent}/offline-run-*" in output

    wandb = str(Path(sys.executable).with_name("wandb"))
    home = {"HOME": str(place.path), "WANDB_DIR": str(place.path)}
    done = subprocess.run(
        [wandb, "sync", str(folder)],
        env={**environment(place), **home},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    check_equal(in_wandb(place, wandb_api), place)
