"""Tracks runs in MLflow: on a server, or in a database such as a local SQLite file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

import llmforge
from llmforge import SAFE, Component, Problem, RunContext, events, hookimpl
from llmforge.interfaces import TrackedRun

if TYPE_CHECKING:
    from llmforge_plugins.trackers._mlflow_checkpoints import Checkpoints
    from llmforge_plugins.trackers._mlflow_run import MlflowRun


class Mlflow(Component, kind="tracker"):
    """An MLflow run with params, metrics, artifacts and registered checkpoints."""

    requires: ClassVar[tuple[str, ...]] = ("mlflow",)
    credentials: ClassVar[tuple[str, ...]] = (
        "MLFLOW_TRACKING_USERNAME",
        "MLFLOW_TRACKING_PASSWORD",
    )

    class Options(llmforge.Options):
        """Options of ``[tracker.mlflow]``."""

        tracking_uri: Annotated[str | None, SAFE] = None
        """Server or database; else ``MLFLOW_TRACKING_URI``, else ``mlflow.db`` in ``run.root``."""
        experiment: Annotated[str | None, SAFE] = None
        """Experiment, made if it does not exist; else ``run.project``, else ``llmforge``."""
        parent_run_id: Annotated[str | None, SAFE] = None
        """MLflow run below which this one is shown."""
        log_checkpoints: Annotated[Literal["best", "last", "all", "none"], SAFE] = "none"
        """Checkpoints to keep as artifacts; ``best`` and ``last`` replace the one before."""
        register_as: Annotated[str | None, SAFE, Field(min_length=1)] = None
        """Registered model that gets the logged checkpoints as versions when the run is done."""

        @model_validator(mode="after")
        def _something_to_register(self) -> Mlflow.Options:
            if self.register_as is not None and self.log_checkpoints == "none":
                raise ValueError(
                    'register_as needs logged checkpoints: set log_checkpoints = "best", "last" '
                    'or "all"'
                )
            return self

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        self._run: MlflowRun | None = None
        self._checkpoints: Checkpoints | None = None

    @hookimpl
    def forge_preflight(self, run: RunContext) -> list[Problem]:
        """Ask the store for an answer: a refused login stops the run, a dead server does not."""
        from llmforge_plugins._mlflow_client import login_problem, readiness
        from llmforge_plugins._mlflow_place import tracking_uri

        if problem := login_problem(self.options.tracking_uri):
            return [problem]
        problem, notice = readiness(tracking_uri(self.options.tracking_uri, run.directory))
        if notice:
            run.notice(notice)
        return [problem] if problem else []

    @hookimpl
    def forge_run_start(self, event: events.RunStarted) -> None:
        """Find or make the MLflow run, and log recipe and facts."""
        from llmforge_plugins._mlflow_client import connect, plain_errors
        from llmforge_plugins._mlflow_place import place_of, tracking_uri
        from llmforge_plugins.trackers._mlflow_checkpoints import Checkpoints
        from llmforge_plugins.trackers._mlflow_run import open_run

        directory, option = Path(event.directory), self.options.tracking_uri
        uri = tracking_uri(option, directory)
        self._run = None
        project = (event.config.get("run") or {}).get("project")
        with plain_errors(uri):
            run = open_run(
                connect(uri),
                place_of(option, directory, uri),
                event,
                uri=uri,
                experiment=self.options.experiment or project or "llmforge",
                parent=self.options.parent_run_id,
            )
            run.begin(event)
        self._checkpoints = Checkpoints(run, self.options.log_checkpoints, self.options.register_as)
        self._run = run
        self.link, self.address = run.link, run.id

    @hookimpl
    def forge_metrics(self, event: events.MetricsLogged) -> None:
        """Log the values in one request."""
        self.take_metrics([event])

    def take_metrics(self, rows: Sequence[events.MetricsLogged]) -> None:
        """Log the values of several rows in one request."""
        with self._opened() as run:
            run.metrics(rows)

    @hookimpl
    def forge_eval_end(self, event: events.EvaluationEnded) -> None:
        """Log the evaluation's values."""
        with self._opened() as run:
            run.metrics([event])

    @hookimpl
    def forge_histograms(self, event: events.HistogramsLogged) -> None:
        """Log histograms as a JSON file."""
        with self._opened() as run:
            run.histograms(event)

    @hookimpl
    def forge_samples(self, event: events.SamplesGenerated) -> None:
        """Bring the table of samples up to date."""
        with self._opened() as run:
            run.samples(event)

    @hookimpl
    def forge_artifact(self, event: events.ArtifactWritten) -> None:
        """Log the file."""
        with self._opened() as run:
            run.file(event.path)

    @hookimpl
    def forge_checkpoint_saved(self, event: events.CheckpointSaved) -> None:
        """Log the checkpoint if it is one of the chosen."""
        with self._opened():
            assert self._checkpoints is not None
            self._checkpoints.log(event)

    @hookimpl
    def forge_checkpoint_uploaded(self, event: events.CheckpointUploaded) -> None:
        """Say where the newest uploaded checkpoint is."""
        with self._opened() as run:
            run.tag("llmforge.storage", event.url)

    @hookimpl
    def forge_run_error(self, event: events.RunFailed) -> None:
        """Keep the message."""
        with self._opened() as run:
            run.tag("llmforge.error", event.message)

    @hookimpl
    def forge_run_end(self, event: events.RunEnded) -> None:
        """Register the checkpoints of a finished run, and set the status."""
        with self._opened() as run:
            if event.state in ("completed", "early-stopped"):
                assert self._checkpoints is not None
                self._checkpoints.register()
            run.end(event)

    @hookimpl
    def forge_open_tracked_run(self, address: str, root: Path) -> TrackedRun:
        """Find the MLflow run with the id ``address``, in the store of this environment."""
        from llmforge_plugins.trackers._mlflow_kept import open_kept_run

        known = None if self._run is None else self._run.uri
        return open_kept_run(address, option=known or self.options.tracking_uri, root=root)

    @property
    def keeps_checkpoints(self) -> bool:
        """Whether every checkpoint is logged and none replaced."""
        return bool(self.options.log_checkpoints == "all")

    @contextlib.contextmanager
    def _opened(self) -> Iterator[MlflowRun]:
        from llmforge_plugins._mlflow_client import plain_errors

        if self._run is None:
            raise RuntimeError("forge_run_start has not been called")
        with plain_errors(self._run.place.uri):
            yield self._run
