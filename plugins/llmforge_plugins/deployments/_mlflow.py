"""A registered model of MLflow, which gets every model as a version."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from llmforge.errors import DeployError
from llmforge.interfaces import DeployedFile, ModelFolder, Outlook, Receipt
from llmforge_plugins._mlflow_client import (
    WITHOUT_CREDENTIALS,
    connect,
    login_problem,
    plain_errors,
)
from llmforge_plugins._mlflow_place import (
    URI_VARIABLE,
    is_server,
    recorded_run,
    store_uri,
    tracking_uri,
    without_login,
)

FOLDER = "deployed"
"""Folder of the artifacts, with one for each deployment."""

_DIGEST = "llmforge.digest"
_READY, _FAILED = "READY", "FAILED_REGISTRATION"
_POLL_SECONDS = 0.2
_LONGEST_TAG = 5000


class RegisteredModel:
    """Deploys versions; see :class:`llmforge.interfaces.Deployment`.

    A version is made of files that were verified, and gets its aliases once it is ready.

    Args:
        address: ``mlflow:NAME``.
        options: of ``[deploy.mlflow]``.
    """

    def __init__(self, address: str, options: Any) -> None:
        self.address = address
        self._name = address.partition(":")[2]
        self._options = options

    def look(self, folder: ModelFolder) -> Outlook:
        """Return what would be registered."""
        with self._opened(folder) as (client, uri):
            version = self._version(client, folder)
            link = self._link(uri, version)
            if version is not None and self._is_complete(client, version, folder):
                return Outlook(revision=_shown(version), visible=_seen_by(uri), link=link)
            run = self._run(client, folder, uri)
            there = _sizes(client, run, _place(folder)) if run else {}
            send = tuple(
                name for name, file in sorted(folder.files.items()) if there.get(name) != file.size
            )
            aliases = ", ".join(self._options.alias)
            note = f"version with alias {aliases}" if aliases else "a version"
            return Outlook(send=send, visible=_seen_by(uri), note=note, link=link)

    def publish(self, folder: ModelFolder, *, notice: Callable[[str], None]) -> Receipt:
        """Log and verify the files, register them, wait, then set the aliases."""
        del notice
        with self._opened(folder) as (client, uri):
            version = self._version(client, folder)
            run = version.run_id if version is not None else self._run(client, folder, uri)
            run = run or self._made_run(client, folder)
            sent = self._log(client, run, folder)
            if version is None:
                version = self._registered(client, run, folder)
            version = self._ready(client, version)
            for key, value in _tags(folder).items():
                if version.tags.get(key) != value:
                    client.set_model_version_tag(self._name, version.version, key, value)
            for alias in self._options.alias:
                client.set_registered_model_alias(self._name, alias, version.version)
            link = self._link(uri, version)
            return Receipt(revision=_shown(version), sent=tuple(sent), link=link)

    # The files ------------------------------------------------------------------------------

    def _log(self, client: MlflowClient, run: str, folder: ModelFolder) -> list[str]:
        """Log what is not there yet and verify everything; return the files that were sent."""
        there = _sizes(client, run, _place(folder))
        missing = [name for name, file in folder.files.items() if there.get(name) != file.size]
        sent = set(missing)
        for _ in range(2):
            for name in missing:
                within = str(PurePosixPath(_place(folder), name).parent)
                client.log_artifact(run, str(folder.path / name), within)
            missing = _wrong(client, run, folder)
            if not missing:
                return sorted(sent)
            sent |= {*missing}
        raise DeployError(
            f"{self.address}: the server's files are not what was sent: {', '.join(missing)}",
            remedy="nothing was registered; the same command again sends them once more",
        )

    def _run(self, client: MlflowClient, folder: ModelFolder, uri: str) -> str | None:
        """Return the MLflow run that tracked the run, or was made for this deployment before."""
        if folder.run_directory is not None:
            tracked = recorded_run(folder.run_directory, uri)
            if tracked and _exists(client, tracked):
                return tracked
        experiment = client.get_experiment_by_name(self._options.experiment)
        if experiment is None:
            return None
        found = client.search_runs(
            [experiment.experiment_id], f"tags.`{_DIGEST}` = '{folder.digest}'", max_results=1
        )
        return str(found[0].info.run_id) if found else None

    def _made_run(self, client: MlflowClient, folder: ModelFolder) -> str:
        name = self._options.experiment
        experiment = client.get_experiment_by_name(name)
        if experiment is not None and experiment.lifecycle_stage == "deleted":
            raise DeployError(
                f"{self.address}: the MLflow experiment '{name}' was deleted",
                remedy="restore it, or set deploy.mlflow.experiment",
            )
        made = experiment.experiment_id if experiment else client.create_experiment(name)
        run = client.create_run(
            made, run_name=f"{folder.run_id or self._name} deployed", tags=_tags(folder)
        )
        client.set_terminated(run.info.run_id)
        return str(run.info.run_id)

    # The version ----------------------------------------------------------------------------

    def _version(self, client: MlflowClient, folder: ModelFolder) -> ModelVersion | None:
        """Return the version with these contents, if there is one that did not fail."""
        for version in client.search_model_versions(f"name='{self._name}'"):
            if version.tags.get(_DIGEST) == folder.digest and version.status != _FAILED:
                return version
        return None

    def _is_complete(
        self, client: MlflowClient, version: ModelVersion, folder: ModelFolder
    ) -> bool:
        sizes = {name: file.size for name, file in folder.files.items()}
        if version.status != _READY or _sizes(client, version.run_id, _place(folder)) != sizes:
            return False
        if any(version.tags.get(key) != value for key, value in _tags(folder).items()):
            return False
        aliases = client.get_model_version(self._name, version.version).aliases
        return set(self._options.alias) <= set(aliases)

    def _registered(self, client: MlflowClient, run: str, folder: ModelFolder) -> ModelVersion:
        try:
            client.create_registered_model(self._name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        return client.create_model_version(
            self._name,
            source=f"runs:/{run}/{_place(folder)}",
            run_id=run,
            tags=_tags(folder),
            await_creation_for=0,
        )

    def _ready(self, client: MlflowClient, version: ModelVersion) -> ModelVersion:
        deadline = time.monotonic() + self._options.ready_seconds
        while True:
            version = client.get_model_version(self._name, version.version)
            if version.status == _READY:
                return version
            if version.status == _FAILED or time.monotonic() > deadline:
                raise DeployError(
                    f"{self.address}: version {version.version} is {version.status}"
                    f"{f': {version.status_message}' if version.status_message else ''}",
                    remedy="the same command again looks whether it is ready",
                )
            time.sleep(_POLL_SECONDS)

    # The store ------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _opened(self, folder: ModelFolder) -> Iterator[tuple[MlflowClient, str]]:
        option = self._options.tracking_uri
        if problem := login_problem(option):
            raise DeployError(
                problem.message.replace("the URI", "deploy.mlflow.tracking_uri"),
                remedy=problem.remedy,
            )
        if folder.run_directory is not None:
            uri = tracking_uri(option, folder.run_directory)
        else:
            uri = store_uri(option or os.environ.get(URI_VARIABLE, ""), Path.cwd())
        try:
            with plain_errors(uri):
                yield connect(uri), uri
        except ConnectionError as error:
            raise DeployError(
                f"{self.address}: {error}", remedy="MLFLOW_TRACKING_URI says which server is asked"
            ) from error
        except MlflowException as error:
            raise self._described(error, uri) from error

    def _described(self, error: MlflowException, uri: str) -> DeployError:
        shown = without_login(uri)
        if error.get_http_status_code() in WITHOUT_CREDENTIALS:
            return DeployError(
                f"{self.address}: {shown} refuses the login",
                remedy="set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
                "MLFLOW_TRACKING_TOKEN, in the environment or in .env",
            )
        text = " ".join(str(error.message).split())[:300]
        return DeployError(f"{self.address}: {shown} says: {text}")

    def _link(self, uri: str, version: ModelVersion | None) -> str:
        if not is_server(uri):
            return f"mlflow ui --backend-store-uri {without_login(uri)}"
        page = f"{without_login(uri).rstrip('/')}/#/models/{self._name}"
        return page if version is None else f"{page}/versions/{version.version}"


def _place(folder: ModelFolder) -> str:
    return f"{FOLDER}/{folder.digest[:16]}"


def _shown(version: ModelVersion) -> str:
    return f"version {version.version}"


def _seen_by(uri: str) -> str:
    return "seen by whoever may use the server" if is_server(uri) else "a file of this machine"


def _tags(folder: ModelFolder) -> dict[str, str]:
    facts = {
        _DIGEST: folder.digest,
        "llmforge.run": folder.run_id,
        "llmforge.step": "" if folder.step is None else str(folder.step),
        "llmforge.recipe_hash": folder.recipe_hash,
        **{name: f"{value:.6g}" for name, value in folder.metrics.items()},
    }
    return {key: value[:_LONGEST_TAG] for key, value in facts.items() if value}


def _sizes(client: MlflowClient, run: str, place: str) -> dict[str, int]:
    """Return the bytes of every artifact below ``place``, by its path within it."""
    found: dict[str, int] = {}
    folders = [place]
    while folders:
        for item in client.list_artifacts(run, folders.pop()):
            if item.is_dir:
                folders.append(item.path)
            else:
                found[item.path.removeprefix(f"{place}/")] = int(item.file_size or 0)
    return found


def _wrong(client: MlflowClient, run: str, folder: ModelFolder) -> list[str]:
    """Return the files that do not read back as they should."""
    wrong = []
    for name, file in sorted(folder.files.items()):
        with tempfile.TemporaryDirectory(prefix="forge-mlflow-") as place:
            path = client.download_artifacts(run, f"{_place(folder)}/{name}", place)
            if _entry(Path(path)) != file:
                wrong.append(name)
    return wrong


def _entry(path: Path) -> DeployedFile:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return DeployedFile(path.stat().st_size, digest)


def _exists(client: MlflowClient, run: str) -> bool:
    try:
        return bool(client.get_run(run).info.lifecycle_stage != "deleted")
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return False
        raise
