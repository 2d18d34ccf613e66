"""The MLflow tracker against a real server and a real SQLite file, read back by MLflow's client."""

from __future__ import annotations

import itertools
import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow_server import MlflowServer, shared_server

from llmforge.component import Component
from llmforge.courier import JournalWriter
from llmforge.courier.delivery import Delivery
from llmforge.events import (
    ArtifactWritten,
    CheckpointSaved,
    CheckpointUploaded,
    EvaluationEnded,
    Event,
    HistogramsLogged,
    MetricsLogged,
    RunEnded,
    RunFailed,
    RunStarted,
    SamplesGenerated,
)
from llmforge.plugins import build_manager, load
from llmforge.testing import TrackerContract, make_component


@pytest.fixture(autouse=True)
def no_mlflow_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def server() -> MlflowServer:
    """The server of this test session."""
    return shared_server()


class TestMlflowOnAServer(TrackerContract):
    """The contract, with a server; with the store it makes by itself it is among the built-ins."""

    component: ClassVar[type[Component]] = load("tracker", "mlflow")

    def make_options(self, directory: Path) -> Mapping[str, Any]:
        del directory
        return {"tracking_uri": shared_server().url, "log_checkpoints": "all"}


class Tracked:
    """A run directory whose journal is delivered to the tracker, and what MLflow then has."""

    def __init__(self, directory: Path, server: MlflowServer, **options: Any) -> None:
        self.directory = directory
        self.client: MlflowClient = server.client
        self.experiment = f"test-{uuid.uuid4().hex[:8]}"
        self.options = {"tracking_uri": server.url, "experiment": self.experiment, **options}
        directory.mkdir(parents=True, exist_ok=True)

    @property
    def cursor(self) -> Path:
        return self.directory / "cursor.json"

    def started(self, restart: int = 1, **changes: Any) -> RunStarted:
        """Return a start of this run."""
        fields: dict[str, Any] = {
            "run_id": "mine",
            "attempt": 1,
            "restart": restart,
            "directory": str(self.directory),
            "config": {"run": {"seed": 7}, "train": {"log_every": 4, "device": "cpu"}},
        }
        return RunStarted(**(fields | changes))

    def journal(self, *told: Event) -> None:
        """Append events, as the training process does."""
        writer = JournalWriter(self.directory / "journal.jsonl")
        for event in told:
            writer.append(event)
        writer.close()

    def deliver(self) -> list[str]:
        """Deliver what waits with a fresh tracker, as a new courier does; return the failures."""
        failures: list[str] = []
        tracker = make_component(load("tracker", "mlflow"), self.options)
        manager = build_manager([tracker])
        delivery = Delivery(
            tracker,
            call=lambda hook, event: getattr(manager.hook, hook)(event=event),
            journal=self.directory / "journal.jsonl",
            cursor=self.cursor,
            on_error=lambda _, message: failures.append(message),
        )
        delivery.close()
        delivery.run()
        return failures

    def tell(self, *told: Event) -> None:
        """Append events and deliver all of them."""
        self.journal(*told)
        assert self.deliver() == []

    @property
    def runs(self) -> list[Run]:
        """The runs of the experiment, the oldest first."""
        found = self.client.get_experiment_by_name(self.experiment)
        return list(
            self.client.search_runs([found.experiment_id], order_by=["attributes.start_time ASC"])
        )

    @property
    def run(self) -> Run:
        """The only run."""
        (run,) = self.runs
        return self.client.get_run(run.info.run_id)

    def steps(self, name: str) -> list[int]:
        """Return the steps of a metric in the order of steps, doubled ones twice."""
        history = self.client.get_metric_history(self.run.info.run_id, name)
        return sorted(metric.step for metric in history)

    def table(self) -> list[dict[str, Any]]:
        """Return the rows of the table of samples, as MLflow reads tables."""
        mlflow.set_tracking_uri(self.options["tracking_uri"])
        found = self.client.load_table(self.run.info.experiment_id, "samples.json")
        rows: list[dict[str, Any]] = found.to_dict(orient="records")
        return rows

    def files(self, folder: str | None = None) -> list[str]:
        """Return the artifacts below a folder."""
        found = []
        for item in self.client.list_artifacts(self.run.info.run_id, folder):
            found += self.files(item.path) if item.is_dir else [item.path]
        return sorted(found)

    def text(self, path: str) -> str:
        """Return the content of an artifact."""
        local = self.client.download_artifacts(
            self.run.info.run_id, path, str(self.directory.parent)
        )
        return Path(local).read_text(encoding="utf-8")

    def checkpoint(self, step: int, *, is_best: bool = False) -> CheckpointSaved:
        """Write something like a checkpoint and return its event."""
        path = f"checkpoints/step-{step:08d}"
        (self.directory / path).mkdir(parents=True)
        (self.directory / path / "manifest.json").write_text(f'{{"step": {step}}}')
        return CheckpointSaved(step=step, path=path, size=1, is_best=is_best, seconds=0.1)


MakeTracked = Callable[..., Tracked]


@pytest.fixture
def tracked(tmp_path: Path, server: MlflowServer) -> Iterator[MakeTracked]:
    """A function that makes a run tracked with the given options."""
    counter = itertools.count()
    yield lambda **options: Tracked(tmp_path / f"runs-{next(counter)}" / "mine", server, **options)


def row(step: int, **values: float) -> MetricsLogged:
    return MetricsLogged(step=step, values=values or {"train/loss": 1.0 / step}, time=1e9 + step)


def ended(state: str = "completed") -> RunEnded:
    metrics = {"val/loss": 2.0, "best": {"metric": "val/loss", "value": 1.5, "step": 4}}
    return RunEnded(state=state, reason="all 8 steps taken", step=8, metrics=metrics)


def test_recipe_facts_and_labels_become_params_and_tags(tracked: MakeTracked) -> None:
    place = tracked()
    facts = {
        "name": "tiny-2026",
        "tags": ["baseline", "model:tiny"],
        "parameters": 12345,
        "tokens": {"train": 99},
        "provenance": {"git": {"commit": "abc"}, "command": ["forge", "train", "x"], "user": "u"},
        "resolved": {"device": "cpu"},
    }
    config = {
        "run": {"seed": 7, "notes": "why it is done"},
        "generation": {"prompts": ["One", "Two"]},
        "model": {"transformer": {"compile": True, "text": "x" * 7000}},
    }
    place.tell(place.started(config=config, facts=facts))
    run = place.run
    assert run.info.run_name == "tiny-2026"
    assert run.info.status == "RUNNING"
    assert run.data.params["run.seed"] == "7"
    assert run.data.params["model.transformer.compile"] == "true"
    assert json.loads(run.data.params["generation.prompts"]) == ["One", "Two"]
    assert len(run.data.params["model.transformer.text"]) == 6000
    assert run.data.params["facts.parameters"] == "12345"
    assert run.data.params["facts.tokens.train"] == "99"
    tags = run.data.tags
    assert tags["baseline"] == "true"
    assert tags["model_tiny"] == "true"
    assert tags["mlflow.note.content"] == "why it is done"
    assert tags["mlflow.source.git.commit"] == "abc"
    assert tags["mlflow.user"] == "u"
    assert tags["resolved.device"] == "cpu"
    assert tags["llmforge.run"] == "mine"


def test_more_params_than_a_request_takes_all_arrive(tracked: MakeTracked) -> None:
    place = tracked()
    place.tell(place.started(config={"many": {f"key{index}": index for index in range(350)}}))
    assert len(place.run.data.params) == 350


def test_metrics_and_evaluations_keep_names_steps_values_and_times(tracked: MakeTracked) -> None:
    place = tracked()
    place.tell(
        place.started(),
        row(4, **{"train/loss": 3.5, "grad_norm": float("nan")}),
        row(8, **{"train/loss": 2.5}),
        EvaluationEnded(step=8, split="validation", values={"val/loss": 2.25}, time=1e9 + 9),
        ended(),
    )
    run_id = place.run.info.run_id
    history = place.client.get_metric_history(run_id, "train/loss")
    assert [(m.step, m.value, m.timestamp) for m in history] == [
        (4, 3.5, 1_000_000_004_000),
        (8, 2.5, 1_000_000_008_000),
    ]
    assert place.steps("grad_norm") == [4]
    assert [m.value for m in place.client.get_metric_history(run_id, "val/loss")] == [2.25]


def test_more_values_than_a_request_takes_all_arrive(tracked: MakeTracked) -> None:
    place = tracked()
    values = {f"layer{index}/norm": float(index) for index in range(40)}
    place.tell(place.started(), *(row(step, **values) for step in range(1, 61)))
    assert place.steps("layer0/norm") == list(range(1, 61))
    assert place.steps("layer39/norm") == list(range(1, 61))


def test_the_table_of_samples_grows_and_is_read_back_as_mlflow_reads_tables(
    tracked: MakeTracked,
) -> None:
    place = tracked()
    rows = [
        {"step": step, "prompt": "The", "text": f" end {step} – für", "tokens": 2}
        for step in (4, 8)
    ]
    local = place.directory / "samples.jsonl"
    for sample in rows:
        with local.open("a", encoding="utf-8") as file:
            file.write(json.dumps(sample) + "\n")
    place.tell(
        place.started(),
        SamplesGenerated(step=4, samples=(rows[0],)),
        SamplesGenerated(step=8, samples=(rows[1],)),
    )
    assert place.table() == rows


def test_files_and_histograms_become_artifacts(tracked: MakeTracked) -> None:
    place = tracked()
    (place.directory / "plots").mkdir()
    (place.directory / "plots" / "loss.png").write_bytes(b"png")
    (place.directory / "recipe.toml").write_text("[run]\n")
    histogram = {"edges": [0.0, 1.0], "counts": [3.0]}
    place.tell(
        place.started(),
        ArtifactWritten(name="recipe", path="recipe.toml", type="recipe"),
        ArtifactWritten(name="loss", path="plots/loss.png", type="plot"),
        HistogramsLogged(step=4, values={"weights/head": histogram}),
    )
    assert place.files() == ["histograms/step-00000004.json", "plots/loss.png", "recipe.toml"]
    assert json.loads(place.text("histograms/step-00000004.json")) == {"weights/head": histogram}


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("completed", "FINISHED"),
        ("early-stopped", "FINISHED"),
        ("interrupted", "KILLED"),
        ("failed", "FAILED"),
    ],
)
def test_how_a_run_ended_is_its_status(tracked: MakeTracked, state: str, status: str) -> None:
    place = tracked()
    place.tell(place.started(), RunFailed(step=8, message="out of memory"), ended(state))
    run = place.run
    assert run.info.status == status
    assert run.info.end_time
    assert run.data.tags["end.reason"] == "all 8 steps taken"
    assert run.data.tags["end.best.value"] == "1.5"
    assert run.data.tags["llmforge.error"] == "out of memory"


# Once -----------------------------------------------------------------------------------------


def test_a_courier_killed_before_it_wrote_its_cursor_doubles_nothing(tracked: MakeTracked) -> None:
    place = tracked(log_checkpoints="last", register_as=f"model-{uuid.uuid4().hex[:8]}")
    rows = [row(step, **{"train/loss": 1.0 / step}) for step in range(1, 9)]
    told: list[Event] = [
        place.started(),
        *rows,
        EvaluationEnded(step=8, split="validation", values={"val/loss": 2.0}, time=1e9),
        SamplesGenerated(step=8, samples=({"prompt": "a", "text": "b"},)),
        place.checkpoint(8),
        ended(),
    ]
    place.journal(*told)
    assert place.deliver() == []
    place.cursor.unlink()  # nothing of what was delivered had been written down
    assert place.deliver() == []
    assert place.steps("train/loss") == list(range(1, 9))
    assert place.steps("val/loss") == [8]
    assert place.table() == [{"step": 8, "prompt": "a", "text": "b"}]
    assert place.run.info.status == "FINISHED"
    versions = place.client.search_model_versions(f"name='{place.options['register_as']}'")
    assert len(versions) == 1


def test_values_repeated_by_a_resume_are_not_logged_again(tracked: MakeTracked) -> None:
    place = tracked()
    place.tell(place.started(), row(1), row(2), row(3))
    place.cursor.unlink()
    (place.directory / "journal.jsonl").unlink()
    later = [replace(row(step), time=2e9) for step in (2, 3, 4)]
    place.tell(place.started(2), *later)
    assert place.steps("train/loss") == [1, 2, 3, 4]


def test_a_resumed_run_goes_on_in_the_same_mlflow_run(tracked: MakeTracked) -> None:
    place = tracked()
    place.tell(place.started(), row(1), ended("interrupted"))
    first = place.run.info.run_id
    assert place.run.info.status == "KILLED"
    config = {"run": {"seed": 7}, "train": {"log_every": 2, "device": "cpu"}}
    place.tell(place.started(2, config=config, resumed_from=1), row(2))
    assert place.run.info.run_id == first
    assert place.run.info.status == "RUNNING"
    assert place.run.data.params["train.log_every"] == "4"
    assert place.run.data.tags["changed.train.log_every"] == "2"
    place.tell(ended())
    assert place.run.info.status == "FINISHED"
    assert place.steps("train/loss") == [1, 2]


def test_what_comes_after_the_end_does_not_make_a_run_run_again(tracked: MakeTracked) -> None:
    place = tracked()
    place.tell(place.started(), row(1), ended())
    place.tell(CheckpointUploaded(step=8, url="s3://bucket/run/step-8"))
    assert place.run.info.status == "FINISHED"
    assert place.run.data.tags["llmforge.storage"] == "s3://bucket/run/step-8"


def test_a_kill_between_making_the_run_and_writing_its_id_makes_no_second(
    tracked: MakeTracked,
) -> None:
    place = tracked()
    place.tell(place.started())
    record = place.directory / "trackers" / "mlflow" / "run.json"
    body = json.loads(record.read_text())
    record.write_text(json.dumps({**body, "run_id": ""}))
    place.cursor.unlink()
    assert place.deliver() == []
    assert json.loads(record.read_text()) == body
    assert len(place.runs) == 1


def test_a_cleared_run_begins_another_mlflow_run(tracked: MakeTracked) -> None:
    place = tracked()
    place.tell(place.started(), row(1))
    place.directory.rename(place.directory.with_name("aside"))
    place.directory.mkdir()
    place.tell(place.started(attempt=2), row(1))
    assert len(place.runs) == 2


def test_a_deleted_run_is_said_and_its_events_wait(tracked: MakeTracked) -> None:
    place = tracked()
    place.tell(place.started())
    place.client.delete_run(place.run.info.run_id)
    place.journal(row(1))
    (failure,) = place.deliver()
    assert "was deleted; restore it" in failure


def test_trials_of_a_sweep_are_shown_below_one_run(tracked: MakeTracked) -> None:
    first, second = tracked(), tracked()
    second.experiment = second.options["experiment"] = first.experiment
    first.tell(first.started(facts={"sweep": "lr-sweep", "name": "trial-1"}))
    second.tell(second.started(facts={"sweep": "lr-sweep", "name": "trial-2"}))
    by_name = {run.info.run_name: run for run in first.runs}
    assert set(by_name) == {"lr-sweep", "trial-1", "trial-2"}
    parent = by_name["lr-sweep"].info.run_id
    for name in ("trial-1", "trial-2"):
        assert by_name[name].data.tags["mlflow.parentRunId"] == parent


def test_a_parent_can_be_given(tracked: MakeTracked) -> None:
    parent = tracked()
    parent.tell(parent.started())
    child = tracked(parent_run_id=parent.run.info.run_id)
    child.tell(child.started())
    assert child.run.data.tags["mlflow.parentRunId"] == parent.run.info.run_id


def test_the_experiment_falls_back_to_the_project(tracked: MakeTracked) -> None:
    place = tracked(experiment=None)
    place.experiment = f"project-{uuid.uuid4().hex[:8]}"
    place.tell(place.started(config={"run": {"project": place.experiment}}))
    assert place.run.info.run_name == "mine"


# Checkpoints ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choice", "kept"),
    [("best", [4]), ("last", [8]), ("all", [2, 4, 6, 8]), ("none", [])],
)
def test_the_chosen_checkpoints_are_artifacts(
    tracked: MakeTracked, choice: str, kept: list[int]
) -> None:
    place = tracked(log_checkpoints=choice)
    place.tell(
        place.started(),
        *(place.checkpoint(step, is_best=step in (2, 4)) for step in (2, 4, 6, 8)),
    )
    assert place.files() == [f"checkpoints/step-{step:08d}/manifest.json" for step in kept]
    if 4 in kept:
        assert json.loads(place.text("checkpoints/step-00000004/manifest.json")) == {"step": 4}


def test_a_checkpoint_deleted_before_its_event_was_delivered_is_left_out(
    tracked: MakeTracked,
) -> None:
    place = tracked(log_checkpoints="all")
    gone, there = place.checkpoint(2), place.checkpoint(4)
    (place.directory / gone.path / "manifest.json").unlink()
    (place.directory / gone.path).rmdir()
    place.tell(place.started(), gone, there)
    assert place.files() == ["checkpoints/step-00000004/manifest.json"]


def test_best_and_last_become_versions_with_aliases_when_the_run_is_done(
    tracked: MakeTracked,
) -> None:
    name = f"model-{uuid.uuid4().hex[:8]}"
    place = tracked(log_checkpoints="all", register_as=name)
    place.tell(place.started(), place.checkpoint(4, is_best=True), place.checkpoint(8))
    place.tell(ended("interrupted"))
    assert place.client.search_model_versions(f"name='{name}'") == []
    place.tell(place.started(2), ended())
    best = place.client.get_model_version_by_alias(name, "best")
    last = place.client.get_model_version_by_alias(name, "last")
    assert best.source.endswith("checkpoints/step-00000004")
    assert last.source.endswith("checkpoints/step-00000008")
    assert last.run_id == place.run.info.run_id
    assert last.tags == {"llmforge.step": "8"}

    place.tell(place.started(3), place.checkpoint(12, is_best=True), ended())  # --extend
    assert place.client.get_model_version_by_alias(name, "best").source.endswith("00000012")
    assert len(place.client.search_model_versions(f"name='{name}'")) == 3


def test_a_registered_checkpoint_is_never_replaced(tracked: MakeTracked) -> None:
    name = f"model-{uuid.uuid4().hex[:8]}"
    place = tracked(log_checkpoints="last", register_as=name)
    place.tell(place.started(), place.checkpoint(4), place.checkpoint(8), ended())
    place.tell(place.started(2), place.checkpoint(10), place.checkpoint(12), ended())
    assert place.files("checkpoints") == [
        f"checkpoints/step-{step:08d}/manifest.json" for step in (8, 12)
    ]


# Where it is ----------------------------------------------------------------------------------


def test_a_page_of_the_server_is_the_link(tracked: MakeTracked, server: MlflowServer) -> None:
    place = tracked()
    place.tell(place.started())
    info = place.run.info
    link = json.loads(place.cursor.read_text())["link"]
    assert link == f"{server.url}/#/experiments/{info.experiment_id}/runs/{info.run_id}"


def test_without_a_word_the_store_is_a_file_beside_the_runs(
    tracked: MakeTracked, tmp_path: Path
) -> None:
    place = tracked(tracking_uri=None)
    (place.directory / "recipe.toml").write_text("[run]\n")
    place.tell(
        place.started(),
        row(1),
        ArtifactWritten(name="recipe", path="recipe.toml", type="recipe"),
        ended(),
    )
    uri = f"sqlite:///{place.directory.parent / 'mlflow.db'}"
    place.client = MlflowClient(tracking_uri=uri)
    assert place.steps("train/loss") == [1]
    assert place.files() == ["recipe.toml"]
    assert place.run.info.artifact_uri.startswith((place.directory.parent / "mlartifacts").as_uri())
    assert json.loads(place.cursor.read_text())["link"] == f"mlflow ui --backend-store-uri {uri}"
