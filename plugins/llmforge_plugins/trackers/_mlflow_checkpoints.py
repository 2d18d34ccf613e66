"""Chosen checkpoints as artifacts of an MLflow run, and as versions in its model registry."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Literal

from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from llmforge import events
from llmforge_plugins.trackers._mlflow_run import MlflowRun

Choice = Literal["best", "last", "all", "none"]
FOLDER = "checkpoints"

_ALIASES = ("best", "last")
_STEP_TAG = "llmforge.step"


class Checkpoints:
    """Logs checkpoints and registers them.

    Args:
        run: the MLflow run.
        choice: which ones to log; ``best`` and ``last`` replace the one before.
        register_as: name of the registered model, None for none.
    """

    def __init__(self, run: MlflowRun, choice: Choice, register_as: str | None) -> None:
        self._run = run
        self._choice = choice
        self._register_as = register_as

    def log(self, event: events.CheckpointSaved) -> None:
        """Log a checkpoint if it is one of the chosen, then drop those it replaces.

        One that is no longer on the disk, because its event waited for long, is left out.
        """
        aliases = [alias for alias in _ALIASES if alias == "last" or event.is_best]
        if self._choice != "all":
            aliases = [alias for alias in aliases if alias == self._choice]
        local = self._run.directory / event.path
        if not aliases or not local.is_dir():
            return
        place = f"{FOLDER}/{local.name}"
        try:
            self._run.client.log_artifacts(self._run.id, str(local), place)
        except FileNotFoundError:
            if local.is_dir():
                raise
            return  # the run's retention deleted it meanwhile
        for alias in aliases:
            self._run.tag(_tag(alias), place)
        if self._choice != "all":
            self._drop_all_but(place)

    def register(self) -> None:
        """Make versions of what is logged as best and last, each once, and set their aliases."""
        if self._register_as is None:
            return
        client, name = self._run.client, self._register_as
        places = chosen(self._run.tags())
        if not places:
            return
        try:
            client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        known = self._versions()
        for alias, place in places.items():
            if place not in known:
                step = PurePosixPath(place).name.removeprefix("step-")
                known[place] = client.create_model_version(
                    name,
                    source=f"runs:/{self._run.id}/{place}",
                    run_id=self._run.id,
                    tags={_STEP_TAG: str(int(step))},
                    await_creation_for=0,
                ).version
            client.set_registered_model_alias(name, alias, known[place])

    def _versions(self) -> dict[str, str]:
        """Return the versions made of this run by the place of their files."""
        if self._register_as is None:
            return {}
        found = self._run.client.search_model_versions(f"run_id='{self._run.id}'")
        return {
            str(version.source).removeprefix(f"runs:/{self._run.id}/"): str(version.version)
            for version in found
            if version.name == self._register_as
        }

    def _drop_all_but(self, place: str) -> None:
        """Delete earlier checkpoints of this run from its artifacts; registered ones stay."""
        run = self._run
        kept = {place, *self._versions()}
        listed = [item.path for item in run.client.list_artifacts(run.id, FOLDER) if item.is_dir]
        superseded = [path for path in listed if path not in kept]
        if not superseded:
            return
        repository = get_artifact_repository(
            run.client.get_run(run.id).info.artifact_uri,
            tracking_uri=run.uri,
            registry_uri=run.uri,
        )
        for path in superseded:
            repository.delete_artifacts(path)


def _tag(alias: str) -> str:
    return f"llmforge.checkpoint.{alias}"


def chosen(tags: Mapping[str, str]) -> dict[str, str]:
    """Return where the checkpoints logged as ``best`` and ``last`` lie among the artifacts."""
    return {alias: tags[_tag(alias)] for alias in _ALIASES if _tag(alias) in tags}
