"""What the page's server answers, whom it refuses, and that it changes nothing."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from ui_runs import add_samples, make_run

from llmforge.rundir import RunDirectory
from llmforge.serve.guard import Guard, served_names
from llmforge.serve.limits import Limits
from llmforge.serve.listening import bound_socket
from llmforge.ui.answers import Answers
from llmforge.ui.app import HEADERS, build_app
from llmforge.ui.live_changes import Follower, event_lines
from llmforge.ui.server import run_server
from llmforge.ui.snapshot import as_page, key_of

ORIGIN = "http://127.0.0.1:8321"
HOSTILE = "</script><img src=x onerror=alert(1)>"
PARTS = ("", "/curves", "/checkpoints", "/samples", "/tests", "/recipe", "/log")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with three runs."""
    base = tmp_path_factory.mktemp("ui") / "runs"
    for seed, run_id in enumerate(("a", "b", "c")):
        make_run(base, run_id, points=60, seed=seed)
    add_samples(RunDirectory(base / "a"), {10: HOSTILE})
    (base.parent / "secret.txt").write_text("outside\n")
    return base


@pytest.fixture(scope="module")
def answers(root: Path) -> Answers:
    """Return what answers about the runs."""
    return Answers(root, version="0")


def served(answers: Answers, *, token: str | None = None) -> TestClient:
    """Return a client of the application behind its guard, as ``forge ui`` builds it."""
    guard = Guard(
        build_app(answers),
        names=served_names("127.0.0.1", ()),
        any_address=False,
        api_key=token,
        limits=Limits(),
        answered=lambda *_: None,
        open_paths=("/static",),
        command="forge ui",
    )
    return TestClient(guard, base_url=ORIGIN)


@pytest.fixture(scope="module")
def client(answers: Answers) -> TestClient:
    """Return a client of a server without a token."""
    return served(answers)


def test_runs_and_everything_of_a_run_are_answered_as_strict_json(client: TestClient) -> None:
    def refuse(text: str) -> Any:
        raise AssertionError(f"{text} is no JSON")

    rows = client.get("/api/runs").json()["runs"]
    assert [row["id"] for row in rows] == ["a", "b", "c"]
    assert [row["recipe"] for row in rows] == [
        {"optimizer.adamw.lr": rate} for rate in (5e-4, 1e-3, 2e-3)
    ]
    for part in PARTS:
        response = client.get(f"/api/runs/a{part}")
        assert response.status_code == 200, response.text
        json.loads(response.text, parse_constant=refuse)
    curves = client.get("/api/runs/a/curves?metric=train/loss&points=20").json()["series"]
    assert list(curves) == ["train/loss"] and len(curves["train/loss"]["step"]) <= 20


def test_an_expression_is_answered_by_the_index_or_refused_with_its_reason(
    client: TestClient,
) -> None:
    found = client.get("/api/runs", params={"where": "optimizer.adamw.lr >= 0.001"})
    assert sorted(found.json()["ids"]) == ["b", "c"]
    wrong = client.get("/api/runs", params={"where": "nothing < 3"})
    assert wrong.status_code == 400 and "nothing" in wrong.json()["error"]["message"]


def test_a_comparison_has_the_differing_keys_only_and_all_results(client: TestClient) -> None:
    body = client.get("/api/compare?run=a&run=b&run=c").json()
    assert [row["name"] for row in body["recipe"]] == ["optimizer.adamw.lr"]
    assert body["recipe"][0]["values"] == [5e-4, 1e-3, 2e-3]
    results = {row["name"]: row["values"] for row in body["metrics"]}
    assert len(results["best val/loss"]) == 3


def test_every_answer_forbids_what_comes_from_elsewhere(client: TestClient) -> None:
    for path in ("/", "/static/main.js", "/api/runs", "/api/runs/none", "/nowhere"):
        headers = client.get(path).headers
        assert headers.items() >= HEADERS.items(), path
    assert HEADERS["content-security-policy"].startswith("default-src 'self';")


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        ({"Host": "evil.example"}, "forge ui --allow-host"),
        ({"Host": "evil.example:8321"}, "is not a name of this server"),
        ({"Origin": "http://evil.example"}, "other sites"),
        ({"Origin": "null"}, "other sites"),
    ],
)
def test_other_hosts_and_pages_are_refused(
    client: TestClient, headers: dict[str, str], told: str
) -> None:
    for path in ("/", "/api/runs", "/api/events"):
        response = client.get(path, headers=headers)
        assert response.status_code == 403
        assert told in response.json()["error"]["message"]


def test_with_a_token_only_the_empty_page_is_open(answers: Answers) -> None:
    client = served(answers, token="s3cret-token")
    for path in ("/", "/static/main.js", "/static/vendor/uPlot.iife.min.js"):
        assert client.get(path).status_code == 200
    closed = ["/api/status", "/api/runs", "/api/events", "/api/export?run=a"]
    closed += [f"/api/runs/a{part}" for part in PARTS]
    for path in [*closed, "/static/../api/runs", "/staticky"]:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "s3cret-token"}):
            assert client.get(path, headers=headers).status_code in (401, 404), path
    good = {"Authorization": "Bearer s3cret-token"}
    assert client.get("/api/runs", headers=good).status_code == 200


@pytest.mark.parametrize(
    "run_id",
    [
        "..",
        "%2e",
        "%2e%2e",
        "..%2fsecret.txt",
        "a%2f..%2fb",
        "..%5csecret",
        ".completed",
        "a%00",
        "%2fetc",
    ],
)
def test_no_id_leads_out_of_the_directory_of_runs(client: TestClient, run_id: str) -> None:
    for part in PARTS:
        response = client.get(f"/api/runs/{run_id}{part}")
        assert response.status_code in (404, 400), response.text
        assert "outside" not in response.text
    for query in ("compare", "export", "events"):
        assert client.get(f"/api/{query}?run={run_id}").status_code in (404, 400)
    assert client.get(f"/api/sweeps/{run_id}").status_code == 404


@pytest.mark.parametrize(
    "path", ["../app.py", "..%2fapp.py", "%2e%2e/app.py", "vendor/../../app.py"]
)
def test_only_the_pages_own_files_are_served(client: TestClient, path: str) -> None:
    response = client.get(f"/static/{path}")
    assert "FastAPI" not in response.text


def test_a_log_outside_of_the_run_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("outside\n")
    for number, log_file in enumerate(("../../secret.txt", str(tmp_path / "secret.txt"))):
        directory = make_run(tmp_path / "runs", f"r{number}", points=10)
        directory.recipe.write_text(f'[run]\nlog_file = "{log_file}"\n')
    linked = make_run(tmp_path / "runs", "linked", points=10)
    (linked.path / "log.txt").unlink()
    (linked.path / "log.txt").symlink_to(tmp_path / "secret.txt")
    client = served(Answers(tmp_path / "runs", version="0"))
    for run_id in ("r0", "r1", "linked"):
        assert client.get(f"/api/runs/{run_id}/log").json()["text"] == ""


def test_secrets_do_not_reach_the_page(tmp_path: Path) -> None:
    key = "hf_" + "a" * 34
    directory = make_run(tmp_path, "run", points=10, exit_reason=f"token {key}", notices=[key])
    (directory.path / "log.txt").write_text(f"login with {key}\n")
    client = served(Answers(tmp_path, version="0"))
    for part in ("", "/log"):
        assert key not in client.get(f"/api/runs/run{part}").text
    assert key not in client.get("/api/runs").text


def test_nothing_is_written_whatever_is_asked(root: Path, client: TestClient) -> None:
    def tree() -> dict[str, tuple[int, int]]:
        found = sorted(path for path in root.rglob("*") if ".index" not in path.parts)
        return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in found}

    before = tree()
    for path in ("/", "/api/runs", "/api/sweeps", "/api/compare?run=a&run=b", "/api/export?run=a"):
        assert client.get(path).status_code == 200
    for part in PARTS:
        client.get(f"/api/runs/a{part}")
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert client.request(method, "/api/runs/a").status_code == 405
    assert tree() == before


def test_a_damaged_run_is_shown_with_what_is_wrong(tmp_path: Path) -> None:
    directory = make_run(tmp_path, "run", points=10)
    directory.recipe.write_text("not = = toml")
    directory.samples.write_text('{"step": 1}\n{broken\n')
    client = served(Answers(tmp_path, version="0"))
    assert "recipe.toml cannot be read" in client.get("/api/runs/run").json()["problems"][0]
    assert "damaged row" in client.get("/api/runs/run/samples").json()["problems"][0]
    directory.record.write_text("{")
    body = client.get("/api/runs/run")
    assert body.status_code == 200 and body.json()["state"] == "unreadable"


def test_the_log_is_given_in_whole_lines_from_where_the_page_is(tmp_path: Path) -> None:
    directory = make_run(tmp_path, "run", points=10)
    log = directory.path / "log.txt"
    log.write_text("one\ntwo\nthr")
    client = served(Answers(tmp_path, version="0"))
    first = client.get("/api/runs/run/log").json()
    assert first == {"text": "one\ntwo\n", "begin": 0, "end": 8}
    log.write_text("one\ntwo\nthree\n")
    assert client.get("/api/runs/run/log?begin=8").json()["text"] == "three\n"
    log.write_text("x" * 300_000 + "\nlast\n")
    tail = client.get("/api/runs/run/log?begin=14").json()
    assert tail["text"] == "last\n" and tail["begin"] == 300_001


def test_followers_are_told_points_states_and_rows_taken_back(tmp_path: Path) -> None:
    directory = make_run(tmp_path, "run", points=10)
    answers = Answers(tmp_path, version="0")
    follower = Follower(answers, ["run"], since=answers.runs()["version"])
    assert follower.look() == []
    before = directory.metrics.read_text()
    with directory.metrics.open("a") as file:
        file.write('{"step": 110, "tokens_seen": 1, "train/loss": 2.5}\n')
    ((name, body),) = follower.look()
    assert name == "points"
    assert body["series"]["train/loss"]["value"] == [2.5]
    directory.metrics.write_text(before[: before.index("\n") + 1])
    assert [name for name, _ in follower.look()] == ["reset"]
    answers.table._next_look = float("-inf")  # as if a second had passed
    record = json.loads(directory.record.read_text())
    directory.record.write_text(json.dumps({**record, "state": "failed"}))
    make_run(tmp_path, "other", points=10)
    news = dict(follower.look())
    assert {row["id"] for row in news["rows"]["runs"]} == {"run", "other"}
    assert not news["rows"]["whole"]
    shutil.rmtree(tmp_path / "other")
    answers.table._next_look = float("-inf")
    assert dict(follower.look())["rows"]["removed"] == ["other"]
    assert news["files"]["changed"] == ["run"]


def test_a_page_that_outlived_its_server_is_sent_all_rows(answers: Answers) -> None:
    (name, body), *_ = Follower(answers, [], since=answers.runs()["version"] - 10**9).look()
    assert name == "rows" and body["whole"] and len(body["runs"]) == 3


def test_the_stream_of_events_ends_with_the_server(answers: Answers) -> None:
    async def read() -> list[bytes]:
        stop = asyncio.Event()
        lines = event_lines(Follower(answers, ["a"], since=answers.runs()["version"]), stop)
        first = [await anext(lines)]
        stop.set()
        return first + [line async for line in lines]

    assert asyncio.run(read()) == [b"event: ready\ndata: {}\n\n"]


def test_an_exported_page_carries_its_answers_and_no_foreign_markup(answers: Answers) -> None:
    page = as_page(answers, runs=["a", "b"])
    assert "src=" not in page.replace("src=x", "").replace("-src", "")
    assert "<img" not in page and HOSTILE not in page
    assert key_of("api/runs/{}/curves", "b") in page
    assert "default-src 'none'" in page
    assert '"root":""' in page  # who gets the page need not know where the runs were


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_it_starts_ends_it_without_an_error(
    number: signal.Signals, answers: Answers, caplog: pytest.LogCaptureFixture
) -> None:
    with bound_socket("127.0.0.1", 0) as bound:
        run_server(
            answers,
            bound=bound,
            host="127.0.0.1",
            allowed_hosts=(),
            token=None,
            ready=lambda: signal.raise_signal(number),
        )
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
