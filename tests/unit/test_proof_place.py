"""Where a proof trains: a directory of its own, offline trackers, the same threads everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmforge.errors import RunLockedError
from llmforge.proof.place import ProofDirectory, proof_settings, threads
from llmforge.recipe import Recipe, load_recipe


def recipe(**changes: object) -> Recipe:
    return load_recipe("custom_nano", profile="test", overrides=changes)


def directory(root: Path, *, storage: str | None = None) -> ProofDirectory:
    return ProofDirectory(root, recipe(), run_id="tiny", storage=storage)


def test_a_tracker_that_can_work_offline_does() -> None:
    found = proof_settings(recipe(**{"tracker.names": ["wandb", "tensorboard"]}))
    assert found == {"tracker.wandb.mode": "offline"}
    disabled = {"tracker.names": ["wandb"], "tracker.wandb.mode": "disabled"}
    assert proof_settings(recipe(**disabled)) == {}


def test_the_log_tells_what_a_run_does() -> None:
    assert proof_settings(recipe(**{"run.log_level": "warning"}))["run.log_level"] == "info"
    assert proof_settings(recipe(**{"run.log_level": "debug"})) == {}


def test_every_run_has_a_root_and_a_storage_of_its_own(tmp_path: Path) -> None:
    own = directory(tmp_path)
    first, second = own.place("reference"), own.place("killed-1")
    assert first.settings()["storage.url"] == f"file://{own.path}/reference/storage"
    assert not set(first.settings().values()) & set(second.settings().values())
    assert first.environment()["OMP_NUM_THREADS"] == second.environment()["OMP_NUM_THREADS"]


def test_storage_that_is_named_gets_a_folder_that_nobody_else_uses(tmp_path: Path) -> None:
    urls = {
        directory(tmp_path, storage="s3://bucket/x/").place(name).storage
        for name in ("reference", "killed-1", "reference")
    }
    assert len(urls) == 3
    assert all(url.startswith("s3://bucket/x/prove-resume-") for url in urls)


def test_threads_are_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads() == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert threads() >= 1


def test_what_is_not_kept_is_deleted_and_what_killed_proofs_left_too(tmp_path: Path) -> None:
    own = directory(tmp_path)
    left = own.path.parent / "20260101-000000"
    kept = own.path.parent / "20260102-000000"
    for path in (left, kept):
        path.mkdir(parents=True)
    (kept / "kept").touch()
    with own.opened():
        assert own.path.is_dir()
        assert not left.exists()
    assert not own.path.exists()
    assert kept.is_dir()


def test_nothing_stays_of_a_proof_that_is_not_kept(tmp_path: Path) -> None:
    own = directory(tmp_path)
    with own.opened():
        own.place("reference")
    assert not own.path.parent.exists()


def test_a_proof_that_is_kept_stays(tmp_path: Path) -> None:
    own = directory(tmp_path)
    with own.opened():
        own.keep()
    assert own.path.is_dir()


def test_one_proof_of_a_run_at_a_time(tmp_path: Path) -> None:
    with (
        directory(tmp_path).opened(),
        pytest.raises(RunLockedError, match="already proving tiny"),
        directory(tmp_path).opened(),
    ):
        pass
