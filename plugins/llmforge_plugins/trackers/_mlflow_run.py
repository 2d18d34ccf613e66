"""One run in an MLflow store: found or made once, and given params, tags and metrics."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from llmforge import events
from llmforge_plugins._mlflow_place import Place, is_server, record
from llmforge_plugins.trackers import _mlflow_names as names

KEY_TAG = "llmforge.key"
SWEEP_TAG = "llmforge.sweep"
TABLE = "samples.json"

_RESTART_TAG = "llmforge.restart"
_TABLES_TAG = "mlflow.loggedArtifacts"
_PARENT_TAG = "mlflow.parentRunId"
_STATUS = {
    "completed": "FINISHED",
    "early-stopped": "FINISHED",
    "pruned": "KILLED",
    "interrupted": "KILLED",
    "failed": "FAILED",
}


def open_run(
    client: MlflowClient,
    place: Place,
    event: events.RunStarted,
    *,
    uri: str,
    experiment: str,
    parent: str | None,
) -> MlflowRun:
    """Return the MLflow run of ``place``, making it if it is not there.

    Its id is written down before anything is logged; a run made by a process that was killed
    before it could write is found by its tag.

    Args:
        client: of the store.
        place: what is known of the run.
        event: the start, which names the run.
        uri: the store, with the login if it has one.
        experiment: name of the experiment of a new run.
        parent: id of the run a new one is shown below, None for none.

    Raises:
        RuntimeError: the run or its experiment was deleted.
    """
    directory = Path(event.directory)
    if not place.experiment_id:
        artifacts = None if is_server(place.uri) else directory.parent / "mlartifacts"
        found = experiment_id(client, experiment, artifacts=artifacts)
        place = record(directory, dataclasses.replace(place, experiment_id=found))
    if not place.run_id:
        tags = {KEY_TAG: place.key}
        parent = parent or _sweep_run(client, place.experiment_id, event.facts.get("sweep"))
        if parent:
            tags[_PARENT_TAG] = parent
        run_id = _tagged(client, place.experiment_id, KEY_TAG, place.key) or _create(
            client, place.experiment_id, str(event.facts.get("name") or event.run_id), tags
        )
        place = record(directory, dataclasses.replace(place, run_id=run_id))
    run = client.get_run(place.run_id)
    if run.info.lifecycle_stage == "deleted":
        raise RuntimeError(
            f"MLflow run {place.run_id} was deleted; restore it, or delete "
            "trackers/mlflow/run.json of the run to start another"
        )
    return MlflowRun(client, place, directory, uri=uri)


def experiment_id(client: MlflowClient, name: str, *, artifacts: Path | None) -> str:
    """Return the id of the experiment ``name``, making it if there is none.

    Args:
        client: of the store.
        name: of the experiment.
        artifacts: where a new one keeps its files; None leaves it to the server.

    Raises:
        RuntimeError: it was deleted.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return client.create_experiment(
                name, artifact_location=artifacts and artifacts.absolute().as_uri()
            )
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":  # made by another run meanwhile
                raise
            found = client.get_experiment_by_name(name)
    assert found is not None
    if found.lifecycle_stage == "deleted":
        raise RuntimeError(
            f"MLflow experiment '{name}' was deleted; restore it, or set tracker.mlflow.experiment"
        )
    return str(found.experiment_id)


class MlflowRun:
    """A run of ours in MLflow.

    Args:
        client: of the store.
        place: the store and the run in it.
        directory: our run.
        uri: the store, with the login if it has one.
    """

    def __init__(self, client: MlflowClient, place: Place, directory: Path, *, uri: str) -> None:
        self.client = client
        self.place = place
        self.directory = directory
        self.uri = uri
        self.id = place.run_id
        self._last_steps: dict[str, int] | None = None

    @property
    def link(self) -> str:
        """Where the run can be seen: a page of the server, or the command that shows one."""
        if is_server(self.place.uri):
            base = self.place.uri.rstrip("/")
            return f"{base}/#/experiments/{self.place.experiment_id}/runs/{self.id}"
        return f"mlflow ui --backend-store-uri {self.place.uri}"

    def begin(self, event: events.RunStarted) -> None:
        """Log recipe and facts of a start; a param cannot change, so a changed one is a tag.

        A start that is sent again, for what was left after its end, does not make it run again.
        """
        run = self.client.get_run(self.id)
        if run.data.tags.get(_RESTART_TAG) != str(event.restart):
            self.client.update_run(self.id, status="RUNNING")
        facts = dict(event.facts)
        tags = dict(_tags(event))
        for group in ("provenance", "resolved"):
            values = facts.pop(group, {})
            tags |= {f"{group}.{key}": value for key, value in names.flat(values)}
        facts = {key: facts[key] for key in facts if key not in ("name", "tags", "sweep")}
        wanted = {names.name(key): names.param(value) for key, value in names.flat(event.config)}
        wanted |= {
            names.name(key): names.param(value) for key, value in names.flat(facts, "facts.")
        }
        known = run.data.params
        tags |= {
            f"changed.{key}": value
            for key, value in wanted.items()
            if key in known and known[key] != value
        }
        self._batch(
            [Param(key, value) for key, value in wanted.items() if key not in known],
            [RunTag(names.name(key), names.tag(value)) for key, value in tags.items()],
        )

    def metrics(self, told: Iterable[events.MetricsLogged | events.EvaluationEnded]) -> None:
        """Log values above the last step the store has of each, in as few requests as may be."""
        last = self._last_steps if self._last_steps is not None else self._ask_last_steps()
        batch = []
        for event in told:
            when = max(0, int(event.time * 1000))
            for key, value in event.values.items():
                plain = names.name(key)
                if event.step > last.get(plain, -1):
                    last[plain] = event.step
                    batch.append(Metric(plain, float(value), when, event.step))
        self._last_steps = None  # until the store has taken them, nobody knows what it has
        for some in _pieces(batch, names.MOST_METRICS):
            self.client.log_batch(self.id, metrics=some)
        self._last_steps = last

    def samples(self, event: events.SamplesGenerated) -> None:
        """Replace the table of samples by all rows up to this step, those of the run included."""
        rows = [*_rows_before(self.directory / "samples.jsonl", event.step)]
        rows += [{"step": event.step, **sample} for sample in event.samples]
        columns = list(dict.fromkeys(itertools.chain.from_iterable(rows)))
        table = {"columns": columns, "data": [[row.get(name) for name in columns] for row in rows]}
        self.client.log_dict(self.id, table, TABLE)
        listed = [{"path": TABLE, "type": "table"}]  # how MLflow's own log_table marks a table
        self.client.set_tag(self.id, _TABLES_TAG, json.dumps(listed))

    def histograms(self, event: events.HistogramsLogged) -> None:
        """Log the histograms of a step as a JSON file."""
        path = f"histograms/step-{event.step:08d}.json"
        self.client.log_dict(self.id, dict(event.values), path)

    def file(self, path: str) -> None:
        """Log a file of the run under the folder it has there; one that is gone is left out."""
        local = self.directory / path
        folder = Path(path).parent.as_posix()
        if local.is_file():
            self.client.log_artifact(self.id, str(local), None if folder == "." else folder)

    def tag(self, key: str, value: Any) -> None:
        """Set a tag."""
        self.client.set_tag(self.id, names.name(key), names.tag(value))

    def tags(self) -> Mapping[str, str]:
        """Return the tags the store has."""
        return dict(self.client.get_run(self.id).data.tags)

    def end(self, event: events.RunEnded) -> None:
        """Log the result and set the status."""
        result = {"state": event.state, "reason": event.reason, **event.metrics}
        tags = [
            RunTag(names.name(key), names.tag(value)) for key, value in names.flat(result, "end.")
        ]
        self._batch([], tags)
        self.client.set_terminated(self.id, _STATUS.get(event.state, "FINISHED"))

    def _ask_last_steps(self) -> dict[str, int]:
        found = self.client.get_run(self.id).to_proto().data.metrics
        return {metric.key: int(metric.step) for metric in found}

    def _batch(self, params: Sequence[Param], tags: Sequence[RunTag]) -> None:
        for some in _pieces(params, names.MOST_PARAMS):
            self.client.log_batch(self.id, params=some)
        for some in _pieces(tags, names.MOST_PARAMS):
            self.client.log_batch(self.id, tags=some)


def _create(client: MlflowClient, experiment: str, name: str, tags: Mapping[str, str]) -> str:
    return str(client.create_run(experiment, tags=dict(tags), run_name=name).info.run_id)


def _tagged(client: MlflowClient, experiment: str, tag: str, value: str) -> str | None:
    """Return the oldest run of an experiment that carries a tag, None when there is none."""
    found = client.search_runs(
        [experiment],
        filter_string=f"tags.`{tag}` = '{value}'",
        order_by=["attributes.start_time ASC", "attributes.run_id ASC"],
        max_results=1,
    )
    return str(found[0].info.run_id) if found else None


def _sweep_run(client: MlflowClient, experiment: str, sweep: Any) -> str | None:
    """Return the run that holds the trials of a sweep, making it if need be; None without one."""
    if not sweep:
        return None
    name = names.tag(sweep).replace("'", "_")
    if found := _tagged(client, experiment, SWEEP_TAG, name):
        return found
    own = _create(client, experiment, name, {SWEEP_TAG: name})
    first = _tagged(client, experiment, SWEEP_TAG, name) or own
    if first != own:  # two trials began at once: the older parent stays
        client.delete_run(own)
    return first


def _tags(event: events.RunStarted) -> Iterator[tuple[str, Any]]:
    """Yield the tags of a start: labels of the run, and what MLflow's pages show."""
    yield "llmforge.run", event.run_id
    yield "llmforge.attempt", event.attempt
    yield _RESTART_TAG, event.restart
    for label in event.facts.get("tags") or (event.config.get("run") or {}).get("tags") or ():
        yield str(label), "true"
    if notes := (event.config.get("run") or {}).get("notes"):
        yield "mlflow.note.content", notes
    provenance = event.facts.get("provenance") or {}
    yield "mlflow.user", provenance.get("user") or "unknown"
    yield "mlflow.source.name", " ".join(map(str, provenance.get("command") or ["forge"]))
    if commit := (provenance.get("git") or {}).get("commit"):
        yield "mlflow.source.git.commit", commit


def _rows_before(path: Path, step: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file of samples that belong to earlier steps."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:  # being written just now
            return
        if row["step"] < step:
            yield row


def _pieces(items: Sequence[Any], most: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), most):
        yield items[start : start + most]
