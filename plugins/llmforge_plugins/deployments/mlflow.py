"""The deployment ``mlflow``: versions of a registered model."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

import llmforge
from llmforge import SAFE, Component, hookimpl
from llmforge.interfaces import Deployment


class MlflowRegistry(Component, kind="deploy"):
    """A registered model of MLflow: ``mlflow:NAME``.

    The files are artifacts of the run's own MLflow run, if it was tracked there, else of a new one.
    """

    requires: ClassVar[tuple[str, ...]] = ("mlflow",)
    credentials: ClassVar[tuple[str, ...]] = (
        "MLFLOW_TRACKING_USERNAME",
        "MLFLOW_TRACKING_PASSWORD",
    )
    address_form: ClassVar[str] = "mlflow:NAME"

    class Options(llmforge.Options):
        """Options of ``[deploy.mlflow]``."""

        alias: Annotated[list[str], SAFE] = Field(default_factory=list)
        """Aliases that the version gets, for example ``champion``; one that another version has
        moves."""
        tracking_uri: Annotated[str | None, SAFE] = None
        """Server or database; else ``MLFLOW_TRACKING_URI``, else the one that tracked the run, else
        ``mlflow.db`` beside the run."""
        experiment: Annotated[str, SAFE] = "llmforge"
        """Experiment of an MLflow run that is made for the files."""
        ready_seconds: Annotated[float, SAFE, Field(gt=0)] = 300.0
        """How long the registry may take until a version is ready."""

    @hookimpl
    def forge_open_deployment(self, address: str) -> Deployment:
        """Open the registered model; the first call asks the server."""
        from llmforge_plugins.deployments._mlflow import RegisteredModel

        return RegisteredModel(address, self.options)
