"""Names and values as MLflow takes them, and which store a run continues in. No MLflow needed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llmforge_plugins._mlflow_place import (
    is_server,
    place_of,
    record,
    sqlite_file,
    tracking_uri,
    without_login,
)
from llmforge_plugins.trackers import _mlflow_names as names


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("train/loss", "train/loss"),
        ("a name/with spaces – ü", "a name/with spaces _ ü"),
        ("a:b,c=d", "a_b_c_d"),
        ("/leading//double/", "leading/double"),
        ("../up", "up"),
        ("a/./../b", "a/b"),
        ("", "_"),
        (".", "_"),
        ("..", "_"),
        ("x" * 300, "x" * 250),
        ("x" * 249 + "/y", "x" * 249),
    ],
)
def test_a_name_becomes_one_that_mlflow_takes(given: str, taken: str) -> None:
    assert names.name(given) == taken


def test_values_are_text_cut_to_length() -> None:
    assert names.param(True) == "true"
    assert names.param(1e-3) == "0.001"
    assert names.param(["ü", 1]) == '["ü", 1]'
    assert len(names.param("x" * 10_000)) == 6000
    assert len(names.tag("x" * 10_000)) == 5000


def test_tables_become_dotted_names_without_what_is_empty() -> None:
    tables = {"a": {"b": {"c": 1}, "d": ""}, "e": [], "f": False, "g": None}
    assert dict(names.flat(tables)) == {"a.b.c": 1, "f": False}


def test_what_a_uri_says() -> None:
    assert is_server("http://127.0.0.1:5000")
    assert is_server("databricks://profile")
    assert not is_server("sqlite:///x.db")
    assert without_login("https://me:secret@host/x") == "https://host/x"
    assert sqlite_file("sqlite:////abs/x.db") == Path("/abs/x.db")
    assert sqlite_file("postgresql://u:p@h/db") is None


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run directory, with no store named in the environment."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs" / "mine"


def test_the_option_comes_before_the_variable_before_the_file(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tracking_uri(None, run) == f"sqlite:///{run.parent / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://variable")
    assert tracking_uri(None, run) == "http://variable"
    assert tracking_uri("http://option", run) == "http://option"


def test_a_run_goes_on_in_its_store_when_the_variable_is_gone(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://variable")
    place_of(None, run, tracking_uri(None, run))
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert tracking_uri(None, run) == "http://variable"
    assert tracking_uri("http://another", run) == "http://another"


def test_a_relative_file_means_what_it_meant_at_the_first_start(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = tracking_uri("sqlite:///my.db", run)
    assert uri == f"sqlite:///{tmp_path / 'my.db'}"
    place_of("sqlite:///my.db", run, uri)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert tracking_uri("sqlite:///my.db", run) == uri


def test_the_default_file_moves_with_the_runs(run: Path, tmp_path: Path) -> None:
    place_of(None, run, tracking_uri(None, run))
    (tmp_path / "runs").rename(tmp_path / "moved")
    moved = tmp_path / "moved" / "mine"
    assert tracking_uri(None, moved) == f"sqlite:///{tmp_path / 'moved' / 'mlflow.db'}"


def test_a_login_is_never_written_down(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:canary@host")
    uri = tracking_uri(None, run)
    assert uri == "https://me:canary@host"
    place = record(run, place_of(None, run, uri))
    assert tracking_uri(None, run) == uri  # used, though not written
    assert place_of(None, run, uri).key == place.key
    texts = [path.read_text() for path in run.rglob("*") if path.is_file()]
    assert texts
    assert not any("canary" in text for text in texts)


def test_another_store_is_another_place_and_the_same_store_the_same(run: Path) -> None:
    first = place_of("http://a", run, "http://a")
    assert place_of("http://a", run, "http://a") == first
    other = place_of("http://b", run, "http://b")
    assert other.key != first.key
    assert not other.run_id


def test_writing_down_leaves_one_file(run: Path) -> None:
    place_of("http://a", run, "http://a")
    assert os.listdir(run / "trackers" / "mlflow") == ["run.json"]  # noqa: PTH208
