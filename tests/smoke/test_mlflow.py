"""``forge train`` tracked by a real MLflow server that is killed, and by processes that are."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from conftest import Reference
from forge_process import ForgeProcess, Workplace
from mlflow.entities import Run
from mlflow_server import MlflowServer, shared_server

TRACKER = "mlflow"
Tracked = Callable[..., Workplace]


@pytest.fixture
def server() -> Iterator[MlflowServer]:
    """The server of this test session, up again after the test."""
    found = shared_server()
    if not found.answers():
        found.start()
    yield found
    if not found.answers():
        found.kill()
        found.start()


@pytest.fixture
def tracked(workplace: Workplace, faults: str, server: MlflowServer) -> Tracked:
    """A function that makes the place track with MLflow and the given further trackers."""

    def make(*more: str, **settings: str) -> Workplace:
        own = {
            "tracker.names": json.dumps([TRACKER, *more]),
            "tracker.mlflow.tracking_uri": server.url,
            "tracker.mlflow.experiment": f"forge-{uuid.uuid4().hex[:8]}",
            "tracker.mlflow.log_checkpoints": "last",
            **settings,
        }
        return dataclasses.replace(workplace, environment={"PYTHONPATH": faults}, settings=own)

    return make


class Read:
    """What MLflow has of the only run of a place's experiment."""

    def __init__(self, server: MlflowServer, place: Workplace) -> None:
        self._client = server.client
        experiment = self._client.get_experiment_by_name(
            place.settings["tracker.mlflow.experiment"]
        )
        assert experiment is not None
        (found,) = self._client.search_runs([experiment.experiment_id])
        self.run: Run = self._client.get_run(found.info.run_id)

    def history(self, name: str) -> list[tuple[int, float]]:
        """Return (step, value) of a metric in the order of steps, doubled ones twice."""
        found = self._client.get_metric_history(self.run.info.run_id, name)
        return sorted((metric.step, metric.value) for metric in found)

    def files(self, folder: str | None = None) -> list[str]:
        """Return the artifacts below a folder."""
        found: list[str] = []
        for item in self._client.list_artifacts(self.run.info.run_id, folder):
            found += self.files(item.path) if item.is_dir else [item.path]
        return found

    def content(self, path: str, into: Path) -> bytes:
        """Return an artifact's bytes."""
        into.mkdir(parents=True, exist_ok=True)
        local = self._client.download_artifacts(self.run.info.run_id, path, str(into))
        return Path(local).read_bytes()


def check_delivered_once(server: MlflowServer, place: Workplace) -> Read:
    """Check that MLflow has every row of the run once, and that nothing waits for it."""
    read = Read(server, place)
    for name in ("train/loss", "val/loss", "lr"):
        rows = [(row["step"], row[name]) for row in place.rows if name in row]
        assert read.history(name) == rows, name
    assert TRACKER not in pending(place)
    return read


def pending(place: Workplace) -> Mapping[str, int]:
    """Return how many events wait for each tracker, as ``forge runs status`` says it."""
    status = json.loads(place.forge_here("runs", "status", "tiny", "--json"))
    waiting: Mapping[str, int] = status["pending_events"]
    return waiting


def sync(place: Workplace) -> str:
    """Deliver what waits for MLflow."""
    return place.forge_here("runs", "sync", "tiny", "--tracker", TRACKER, "--timeout", "60")


def reached(step: int) -> Callable[[ForgeProcess], bool]:
    """Return the instant at which a row of ``step`` or later is written."""

    def instant(process: ForgeProcess) -> bool:
        path = process.workplace.run.metrics
        lines = path.read_text().splitlines()[-1:] if path.exists() else []
        return bool(lines) and lines[0].endswith("}") and json.loads(lines[0])["step"] >= step

    return instant


def courier_of(process: ForgeProcess) -> int:
    """Return the process id of the courier that a ``forge train`` process started."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if b"llmforge.courier" in command and parent == process.process.pid:
            return int(entry.name)
    raise AssertionError("no courier")


def test_all_that_a_run_knows_is_there_at_its_end(
    tracked: Tracked, server: MlflowServer, reference: Reference, tmp_path: Path
) -> None:
    place = tracked(**{"tracker.mlflow.register_as": f"model-{uuid.uuid4().hex[:8]}"})
    output = place.train().output

    read = check_delivered_once(server, place)
    run = read.run
    assert run.info.status == "FINISHED"
    assert run.data.params["train.max_steps"] == "60"
    assert int(run.data.params["facts.parameters"]) > 1000
    assert "provenance.python" in run.data.tags
    assert {"recipe.toml", "samples.json", "plots/loss.png"} <= set(read.files())
    newest = place.checkpoints[-1]
    weights = read.content(f"checkpoints/{newest.name}/model.safetensors", tmp_path / "fetched")
    assert weights == (newest / "model.safetensors").read_bytes()
    version = server.client.get_model_version_by_alias(
        place.settings["tracker.mlflow.register_as"], "last"
    )
    assert version.run_id == run.info.run_id
    link = f"{server.url}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    events = len(place.run.journal.read_text().splitlines())
    assert f"tracker mlflow: {events} events delivered: {link}" in output
    assert link in place.forge_here("runs", "show", "tiny")
    assert place.result() == reference("fp32").result()


def test_a_server_killed_in_the_middle_beside_trackers_that_raise_and_sleep(
    tracked: Tracked, server: MlflowServer, reference: Reference
) -> None:
    place = tracked("raiser", "sleeper", "notebook", **{"tracker.close_timeout": "2"})
    process = place.start()
    assert process.wait_for(reached(12))
    server.kill()
    output = process.finish(expect=0).output
    assert "tracker mlflow failed: " in output
    assert f"the MLflow server at {server.url} does not answer" in output
    assert "'forge runs sync tiny' or the next start delivers them" in output
    assert "Traceback" not in output
    assert place.result() == reference("fp32").result()
    assert pending(place)[TRACKER] > 0

    server.start()
    assert "mlflow: " in sync(place)
    assert set(pending(place)) == {"raiser", "sleeper"}
    assert check_delivered_once(server, place).run.info.status == "FINISHED"


@pytest.mark.slow
def test_a_server_that_is_down_all_the_time_costs_a_warning(
    tracked: Tracked, server: MlflowServer, reference: Reference
) -> None:
    place = tracked(**{"tracker.close_timeout": "3"})
    server.kill()
    output = place.train().output
    assert f"the MLflow server at {server.url} does not answer; the run starts" in output
    assert place.record["notices"]
    assert place.result() == reference("fp32").result()
    assert "tracker mlflow: 0 events delivered" in output

    server.start()
    sync(place)
    check_delivered_once(server, place)


@pytest.mark.slow
def test_a_trainer_killed_and_started_again_stays_one_run_in_mlflow(
    tracked: Tracked, server: MlflowServer, reference: Reference
) -> None:
    place = tracked()
    process = place.start()
    assert process.wait_for(lambda _: len(place.checkpoints) > 1 and reached(20)(process))
    process.kill()
    place.train()
    read = check_delivered_once(server, place)
    assert read.run.info.status == "FINISHED"
    assert read.run.data.tags["llmforge.restart"] == "2"
    assert place.result() == reference("fp32").result()


@pytest.mark.slow
def test_a_courier_killed_costs_nothing_that_sync_does_not_bring(
    tracked: Tracked, server: MlflowServer, reference: Reference
) -> None:
    place = tracked()
    kill_the_courier(place, at=16)
    assert place.result() == reference("fp32").result()
    sync(place)
    check_delivered_once(server, place)


def kill_the_courier(place: Workplace, *, at: int) -> None:
    """Train, and kill the courier once a row of step ``at`` is written; another takes over."""
    process = place.start()
    assert process.wait_for(reached(at))
    os.kill(courier_of(process), signal.SIGKILL)
    output = process.finish(expect=0).output
    assert "it ended with code -9 and is started again" in output


@pytest.mark.slow
def test_two_runs_that_make_the_same_file_at_once_both_get_tracked(
    workplace: Workplace, tmp_path: Path
) -> None:
    short = {"train.max_steps": "8", "tracker.names": '["mlflow"]'}
    shared = {"tracker.mlflow.tracking_uri": f"sqlite:///{tmp_path / 'shared.db'}"}
    places = [
        dataclasses.replace(workplace, settings={**short, **shared}).copy(tmp_path / name)
        for name in ("one", "two")
    ]
    processes = [place.start() for place in places]
    for process in processes:
        process.finish(expect=0)
        assert ", 0 still" not in process.output
    for place in places:
        assert not pending(place)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_couriers_and_trainers_killed_at_any_time_double_and_lose_nothing(
    tracked: Tracked, server: MlflowServer, reference: Reference, seed: int
) -> None:
    place = tracked(**{"train.log_every": "1"})
    for start, stop in enumerate((18, 36, 54)):
        process = place.start("--set", f"train.stop_at={stop}")
        assert process.wait_for(reached(stop - 12 + seed))
        time.sleep(0.05 * seed)
        kills_courier = (seed + start) % 2 and process.process.poll() is None
        os.kill(courier_of(process) if kills_courier else process.process.pid, signal.SIGKILL)
        process.process.wait(timeout=120)
    place.train()
    sync(place)
    check_delivered_once(server, place)
    newest = place.checkpoints[-1]
    undisturbed = reference("fp32").checkpoints[-1]
    assert (newest / "model.safetensors").read_bytes() == (
        undisturbed / "model.safetensors"
    ).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("outage", [(4, 20), (8, 44), (30, 60), (4, 60)])
def test_a_server_away_for_a_while_and_back_gets_all_of_it_once(
    tracked: Tracked, server: MlflowServer, reference: Reference, outage: tuple[int, int]
) -> None:
    place = tracked(**{"tracker.close_timeout": "3"})
    process = place.start()
    gone, back = outage
    assert process.wait_for(reached(gone))
    server.kill()
    if process.wait_for(reached(back)):
        server.start()
    process.finish(expect=0)
    if not server.answers():
        server.start()
    sync(place)
    check_delivered_once(server, place)
    assert place.result() == reference("fp32").result()
