"""A run of ours as MLflow keeps it: its recipe and the checkpoints among its artifacts."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from llmforge.errors import RunError
from llmforge.interfaces import TrackedCheckpoint
from llmforge_plugins._mlflow_client import WITHOUT_CREDENTIALS, connect, plain_errors
from llmforge_plugins._mlflow_place import (
    URI_VARIABLE,
    sqlite_file,
    store_uri,
    without_login,
)
from llmforge_plugins.trackers._mlflow_checkpoints import FOLDER, chosen

_STEP = re.compile(r"step-(\d+)")
_RECIPE = "recipe.toml"


class KeptRun:
    """What an MLflow store has of a run; see :class:`llmforge.interfaces.TrackedRun`.

    Args:
        client: of the store.
        run: in it.
        uri: the store, with the login if it has one.
    """

    def __init__(self, client: MlflowClient, run: Run, *, uri: str) -> None:
        self._client = client
        self._run = run
        self._uri = uri
        self.run_id = run.data.tags.get("llmforge.run", "")
        self.attempt = int(run.data.tags.get("llmforge.attempt", 1))
        self.link = f"MLflow run {run.info.run_id} in {without_login(uri)}"

    def recipe(self) -> str | None:
        """Return ``recipe.toml`` from the artifacts, None when it is not there."""
        if _RECIPE not in self._paths(None):
            return None
        with self._downloaded(_RECIPE) as path:
            return path.read_text(encoding="utf-8")

    def checkpoints(self) -> list[TrackedCheckpoint]:
        """Return the logged checkpoints."""
        best = chosen(self._run.data.tags).get("best")
        found = [(path, _STEP.fullmatch(PurePosixPath(path).name)) for path in self._paths(FOLDER)]
        return [
            TrackedCheckpoint(step=int(match[1]), is_best=path == best)
            for path, match in found
            if match
        ]

    def fetch(self, step: int, target: Path) -> None:
        """Download a logged checkpoint."""
        with self._downloaded(f"{FOLDER}/step-{step:08d}", beside=target) as path:
            path.rename(target)

    def _paths(self, folder: str | None) -> list[str]:
        with plain_errors(self._uri):
            return [item.path for item in self._client.list_artifacts(self._id, folder)]

    @contextmanager
    def _downloaded(self, artifact: str, *, beside: Path | None = None) -> Iterator[Path]:
        place = None if beside is None else beside.parent
        folder = tempfile.mkdtemp(prefix=".mlflow-", dir=place)
        try:
            with plain_errors(self._uri):
                path = self._client.download_artifacts(self._id, artifact, folder)
            yield Path(path)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @property
    def _id(self) -> str:
        return str(self._run.info.run_id)


def open_kept_run(run_id: str, *, option: str | None, root: Path) -> KeptRun:
    """Return the run with the MLflow id ``run_id``.

    Args:
        run_id: as MLflow's pages show it.
        option: the store; None for ``MLFLOW_TRACKING_URI`` or the file of the runs here.
        root: directory of all runs.

    Raises:
        RunError: there is no such store or run, or the login is refused.
    """
    uri = store_uri(option or os.environ.get(URI_VARIABLE, ""), root)
    shown = without_login(uri)
    file = sqlite_file(uri)
    if file is not None and not file.exists():
        raise RunError(
            f"there is no MLflow store {file}", remedy=f"name the one to ask with {URI_VARIABLE}"
        )
    client = connect(uri)
    try:
        with plain_errors(uri):
            return KeptRun(client, client.get_run(run_id), uri=uri)
    except MlflowException as error:
        if error.get_http_status_code() in WITHOUT_CREDENTIALS:
            raise RunError(
                f"{shown} refuses the login",
                remedy="set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
                "MLFLOW_TRACKING_TOKEN, in the environment or in .env",
            ) from error
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise RunError(
                f"{shown} has no run '{run_id}'",
                remedy=f"take the run's id from its page; {URI_VARIABLE} names another store",
            ) from error
        raise
