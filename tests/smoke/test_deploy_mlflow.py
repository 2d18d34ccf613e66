"""``forge deploy`` to the MLflow registry of a real server: verified, ready, then its aliases."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import mlflow
import pytest
from deploy_parts import exported, files_of, with_variables
from forge_process import Workplace
from mlflow_server import shared_server

from llmforge_plugins.deployments import _mlflow

SERVER = shared_server()


@pytest.fixture
def place(trained: Workplace) -> Workplace:
    """The trained run, the environment leading to the server."""
    return with_variables(trained, {"MLFLOW_TRACKING_URI": SERVER.url})


@pytest.fixture
def name() -> str:
    return f"tiny-{secrets.token_hex(4)}"


def versions(name: str) -> list[Any]:
    return sorted(SERVER.client.search_model_versions(f"name='{name}'"), key=lambda v: v.version)


def downloaded(name: str, which: str, tmp_path: Path) -> dict[str, bytes]:
    mlflow.set_tracking_uri(SERVER.url)
    path = mlflow.artifacts.download_artifacts(
        f"models:/{name}{which}", dst_path=str(tmp_path / secrets.token_hex(4))
    )
    found = files_of(Path(path))
    found.pop("registered_model_meta", None)  # MLflow's own
    return found


def test_a_version_is_registered_with_tags_and_aliases(
    place: Workplace, name: str, tmp_path: Path
) -> None:
    asked = ("--dtype", "fp16", "--set", 'deploy.mlflow.alias=["champion","newest"]')
    output = place.forge_here("deploy", "tiny", "--to", f"mlflow:{name}", *asked)
    assert f"mlflow:{name}: 12 files sent and verified, version 1" in output
    assert f"{SERVER.url}/#/models/{name}/versions/1" in output
    (version,) = versions(name)
    assert version.status == "READY"
    assert version.tags["llmforge.run"] == "tiny"
    assert version.tags["llmforge.step"] == "12"
    assert version.tags["llmforge.recipe_hash"] == place.record["identity"]["hash"]
    assert float(version.tags["val/loss"]) == pytest.approx(place.rows[-1]["val/loss"], rel=1e-5)
    expected = exported(place, "tiny", "--dtype", "fp16")
    assert downloaded(name, "@champion", tmp_path) == expected


def test_the_same_again_is_the_same_version_and_another_checkpoint_the_next(
    place: Workplace, name: str, tmp_path: Path
) -> None:
    to, alias = ("--to", f"mlflow:{name}"), ("--set", 'deploy.mlflow.alias=["champion"]')
    place.forge_here("deploy", "tiny@10", *to, *alias)
    assert "there already, version 1" in place.forge_here("deploy", "tiny@10", *to, *alias)
    place.run.deployments.unlink()
    assert "there already, version 1" in place.forge_here("deploy", "tiny@10", *to, *alias)
    place.forge_here("deploy", "tiny", *to)
    assert SERVER.client.get_model_version_by_alias(name, "champion").version == "1"
    assert "0 files sent" in place.forge_here("deploy", "tiny", *to, *alias)
    assert SERVER.client.get_model_version_by_alias(name, "champion").version == "2"
    assert len(versions(name)) == 2
    assert downloaded(name, "@champion", tmp_path) == exported(place)


def test_an_interrupted_deployment_continues_with_what_arrived(
    place: Workplace, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = ("--to", f"mlflow:{name}")

    def killed(*_: object) -> None:
        raise RuntimeError("killed here")  # a fault: the process ends between files and version

    with monkeypatch.context() as patch:
        patch.setattr(_mlflow.RegisteredModel, "_registered", killed)
        place.forge_here("deploy", "tiny", *to, expect=1)
    assert versions(name) == []
    assert "0 files sent and verified, version 1" in place.forge_here("deploy", "tiny", *to)
    assert downloaded(name, "/1", tmp_path) == exported(place)


def test_the_files_belong_to_the_run_that_was_tracked_there(place: Workplace, name: str) -> None:
    tracked = ("--set", 'tracker.names=["mlflow"]', "--extend", "14")
    place.train_here(*tracked)
    place.forge_here("deploy", "tiny", "--to", f"mlflow:{name}")
    (version,) = versions(name)
    run = SERVER.client.get_run(version.run_id)
    assert run.data.tags["llmforge.run"] == "tiny"
    assert run.data.metrics["train/loss"] > 0


def test_a_dry_run_registers_nothing(place: Workplace, name: str) -> None:
    output = place.forge_here(
        "deploy", "tiny", "--to", f"mlflow:{name}", "--dtype", "bf16", "--dry-run"
    )
    assert f"mlflow:{name}: 12 to send" in output
    assert versions(name) == []


def test_a_server_that_is_not_there_is_named(place: Workplace, name: str) -> None:
    nowhere = with_variables(place, {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"})
    message = nowhere.forge_here("deploy", "tiny", "--to", f"mlflow:{name}", expect=1)
    assert "the MLflow server at http://127.0.0.1:9 does not answer" in message
    assert "Traceback" not in message


def test_without_a_server_the_registry_is_a_file_beside_the_runs(
    trained: Workplace, name: str
) -> None:
    local = with_variables(trained, {"MLFLOW_TRACKING_URI": ""})
    local.forge_here("deploy", "tiny", "--to", f"mlflow:{name}")
    uri = f"sqlite:///{trained.path / 'runs' / 'mlflow.db'}"
    client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    (version,) = client.search_model_versions(f"name='{name}'")
    assert version.status == "READY"
