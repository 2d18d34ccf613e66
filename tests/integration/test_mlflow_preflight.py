"""What the MLflow tracker finds before step 0: a refused login, a dead server, a bad URI."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from mlflow_server import shared_server

from llmforge.courier.preflight import Readiness, ask_trackers
from llmforge.errors import RecipeError
from llmforge.plugins import load
from llmforge.recipe import load_recipe
from llmforge.testing import make_component, run_context


class Refuses(http.server.BaseHTTPRequestHandler):
    """Answers every request with one status; a fake, for MLflow's login needs more packages."""

    status: ClassVar[int] = 401

    def do_GET(self) -> None:  # http.server's name
        """Refuse."""
        self.send_response(self.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET  # noqa: N815

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def refusing() -> Iterator[str]:
    """The URL of a server that refuses."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refuses)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(autouse=True)
def no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def ask(directory: Path, **options: object) -> Readiness:
    tracker = make_component(load("tracker", "mlflow"), options)
    return ask_trackers([tracker], run_context(directory), strict=False)


def test_a_server_that_answers_is_ready(tmp_path: Path) -> None:
    assert ask(tmp_path, tracking_uri=shared_server().url) == Readiness()


def test_a_file_that_does_not_exist_yet_is_ready_and_made(tmp_path: Path) -> None:
    assert ask(tmp_path) == Readiness()
    assert (tmp_path / "mlflow.db").exists()


def test_several_runs_may_make_the_file_at_once(tmp_path: Path) -> None:
    found: list[Readiness] = []
    threads = [
        threading.Thread(
            target=lambda index=index: found.append(
                ask(tmp_path / f"{index}", tracking_uri=f"sqlite:///{tmp_path / 'shared.db'}")
            )
        )
        for index in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [Readiness()] * 3


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_login_is_a_problem_that_names_the_variables(
    tmp_path: Path, refusing: str, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setattr(Refuses, "status", status)
    (problem,) = ask(tmp_path, tracking_uri=refusing).problems
    assert problem.key == "tracker.mlflow.tracking_uri"
    assert f"refuses the login ({status})" in problem.message
    assert "MLFLOW_TRACKING_USERNAME" in problem.remedy


def test_something_that_is_no_mlflow_server_is_a_problem(
    tmp_path: Path, refusing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Refuses, "status", 404)
    (problem,) = ask(tmp_path, tracking_uri=refusing).problems
    assert "cannot be used as an MLflow store" in problem.message


@pytest.mark.parametrize("fault", ["dead", "failing", "silent"])
def test_a_server_that_is_away_is_a_notice_given_soon(
    tmp_path: Path, refusing: str, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(Refuses, "status", 503)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        if fault == "silent":
            listening.listen()
        nobody = f"http://127.0.0.1:{listening.getsockname()[1]}"
        began = time.monotonic()
        found = ask(tmp_path, tracking_uri=refusing if fault == "failing" else nobody)
    assert time.monotonic() - began < 10
    assert found.problems == []
    (notice,) = found.notices
    assert "does not answer; the run starts" in notice


@pytest.mark.parametrize(
    "uri", ["./mlruns", "file:///tmp/mlruns", "foo://x", "sqlite:////proc/nowhere/m.db"]
)
def test_a_uri_that_is_no_store_is_a_problem_that_names_one(tmp_path: Path, uri: str) -> None:
    (problem,) = ask(tmp_path, tracking_uri=uri).problems
    assert problem.key == "tracker.mlflow.tracking_uri"
    assert "sqlite:///mlflow.db" in problem.remedy


def test_a_login_in_the_recipe_is_refused_without_showing_it(tmp_path: Path) -> None:
    (problem,) = ask(tmp_path, tracking_uri="https://me:canary@host").problems
    assert "no place for secrets" in problem.message
    assert "canary" not in str(problem)


def test_a_login_in_the_variable_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:canary@127.0.0.1:1")
    found = ask(tmp_path)
    assert "http://127.0.0.1:1 does not answer" in found.notices[0].replace("at ", "")
    assert "canary" not in str(found)


def test_registering_without_logging_is_a_problem_of_the_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        '[model]\nname = "transformer"\n[data]\nname = "text"\n[data.text]\ntrain = "x.txt"\n'
        '[train]\nmax_steps = 5\n[tracker]\nnames = ["mlflow"]\n'
        '[tracker.mlflow]\nregister_as = "mine"\n'
    )
    with pytest.raises(RecipeError, match="register_as needs logged checkpoints"):
        load_recipe(recipe)
