"""The MLflow registry of a real server keeps the contract of the kind ``deploy``."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from mlflow_server import shared_server

from llmforge.testing import DeployContract
from llmforge_plugins.deployments.mlflow import MlflowRegistry

SERVER = shared_server()


class TestMlflowRegistry(DeployContract):
    component = MlflowRegistry

    def make_options(self, directory: Path) -> Mapping[str, Any]:
        del directory
        # files of an equal model in the same experiment would not be sent again
        return {"alias": ["champion"], "experiment": f"test-{secrets.token_hex(4)}"}

    @pytest.fixture(autouse=True)
    def _server(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", SERVER.url)
        self.place = tmp_path

    @pytest.fixture(autouse=True)
    def _named(self, plugin: MlflowRegistry) -> None:
        plugin.name = "mlflow"

    def make_address(self, directory: Path) -> str:
        del directory
        return f"mlflow:tiny-{secrets.token_hex(4)}"

    def published(self, address: str) -> Mapping[str, bytes] | None:
        try:
            name = address.partition(":")[2]
            version = SERVER.client.get_model_version_by_alias(name, "champion")
        except MlflowException:
            return None
        folder = version.source.removeprefix(f"runs:/{version.run_id}/")
        target = self.place / secrets.token_hex(4)
        target.mkdir()
        path = Path(SERVER.client.download_artifacts(version.run_id, folder, str(target)))
        return {
            file.relative_to(path).as_posix(): file.read_bytes()
            for file in path.rglob("*")
            if file.is_file()
        }
