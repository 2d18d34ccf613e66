"""``forge serve`` as a process: who may come in, how much, how it stops, how it takes weights."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from generate_parts import make_trained_run, save_steps
from serve_process import LONG, ServeProcess, make_chat_run, opened

from llmforge.generation import generate_texts
from llmforge.rundir import RunDirectory

KEY = "a-key-for-tests"
ASKED = {"model": "talk", "prompt": "x", "max_tokens": 4, "temperature": 0}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("runs")
    make_chat_run(base)
    return base


@pytest.fixture(scope="module")
def guarded(root: Path) -> Iterator[ServeProcess]:
    """A server for few: with a key, one text at a time, two that wait, small requests."""
    options = ("--api-key-env", "FORGE_TEST_KEY", "--allow-host", "models.example")
    limits = ("--max-batch", "1", "--max-queue", "2", "--max-body", "2048", "--max-tokens", "200")
    with ServeProcess(
        root, "talk", *options, *limits, environment={"FORGE_TEST_KEY": KEY}
    ) as process:
        process.key = KEY
        yield process


def post(server: ServeProcess, headers: dict[str, str] | None = None, **body: Any) -> Any:
    sent = {"Authorization": f"Bearer {KEY}", **(headers or {})}
    return httpx.post(
        f"{server.url}/v1/completions", json={**ASKED, **body}, headers=sent, timeout=120
    )


def refused(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "llmforge", "serve", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_wrong_key_is_refused_and_the_right_one_is_not(guarded: ServeProcess) -> None:
    assert post(guarded).status_code == 200
    for wrong in ("", "Bearer", "Bearer nothing", f"Basic {KEY}", "Bearer é"):
        response = httpx.get(
            f"{guarded.url}/v1/models", headers={b"Authorization": wrong.encode("latin-1")}
        )
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
    assert httpx.get(f"{guarded.url}/metrics").status_code == 401
    assert httpx.get(f"{guarded.url}/health").status_code == 200
    with pytest.raises(openai.AuthenticationError):
        guarded.client(api_key="nothing").models.list()


def test_only_its_own_names_and_pages_are_served(guarded: ServeProcess) -> None:
    place = guarded.url.removeprefix("http://")
    port = place.partition(":")[2]
    for host in (place, f"localhost:{port}", "models.example"):
        assert post(guarded, {"Host": host}).status_code == 200
        assert post(guarded, {"Host": host, "Origin": f"http://{host}"}).status_code == 200
    assert post(guarded, {"Host": f"evil.example:{port}"}).status_code == 403
    for origin in ("http://evil.example", "null", f"http://{place}1"):
        response = post(guarded, {"Origin": origin})
        assert response.status_code == 403
        assert "access-control-allow-origin" not in response.headers


def test_a_large_body_is_refused_before_it_is_read(guarded: ServeProcess) -> None:
    response = post(guarded, prompt="x" * 3000)
    assert response.status_code == 413
    host, port = guarded.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {KEY}\r\n"
        connection.sendall(f"{head}Content-Length: 1000000000\r\n\r\n{{".encode())
        assert b" 413 " in connection.recv(200)  # and a gigabyte was never sent
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        piece = b"400\r\n" + b"x" * 1024 + b"\r\n"
        connection.sendall(piece * 3)
        assert b" 413 " in connection.recv(200)
    chunks = (b"x" * 1024 for _ in range(4000))
    response = httpx.post(
        f"{guarded.url}/v1/completions", content=chunks, headers={"Authorization": f"Bearer {KEY}"}
    )
    assert response.json()["error"]["code"] == "body_too_large"  # not lost in a reset


def test_more_than_can_wait_is_told_when_to_come_back(guarded: ServeProcess) -> None:
    def stream(found: list[int]) -> None:
        body = {**ASKED, "max_tokens": 200, "stream": True, "logit_bias": {"256": -100}}
        with httpx.stream(
            "POST",
            f"{guarded.url}/v1/completions",
            json=body,
            headers={"Authorization": f"Bearer {KEY}"},
            timeout=120,
        ) as response:
            response.read()
            found.append(response.status_code)

    statuses: list[int] = []
    threads = [threading.Thread(target=stream, args=(statuses,)) for _ in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert statuses.count(200) >= 3  # one that is written, two that wait
    assert set(statuses) == {200, 429}
    response = None
    with guarded.client().with_options(timeout=120) as client:
        streams = [
            client.completions.create(
                model="talk", prompt="x", max_tokens=200, stream=True, logit_bias={"256": -100}
            )
            for _ in range(3)
        ]
        response = post(guarded)
        for item in streams:
            item.close()
    assert response.status_code == 429
    assert 1 <= int(response.headers["retry-after"]) <= 60
    assert response.json()["error"]["type"] == "rate_limit_error"


def test_longer_answers_than_the_limit_are_refused(guarded: ServeProcess) -> None:
    assert post(guarded, max_tokens=201).json()["error"]["param"] == "max_tokens"


def test_a_client_that_leaves_frees_its_place(guarded: ServeProcess) -> None:
    body = {**ASKED, "max_tokens": 200, "stream": True, "logit_bias": {"256": -100}}
    with httpx.stream(
        "POST",
        f"{guarded.url}/v1/completions",
        json=body,
        headers={"Authorization": f"Bearer {KEY}"},
        timeout=60,
    ) as response:
        next(response.iter_lines())
    assert post(guarded).status_code == 200  # there is one place only
    # the same without a stream
    host, port = guarded.url.removeprefix("http://").split(":")
    text = json.dumps({**body, "stream": False})
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(
            f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {KEY}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode()
        )
        time.sleep(0.2)
    assert post(guarded).status_code == 200


def test_a_server_for_others_needs_a_key(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = ("talk", "--root", str(root))
    assert "--api-key-env" in refused(*where, "--host", "0.0.0.0")
    monkeypatch.delenv("FORGE_TEST_KEY", raising=False)
    assert "FORGE_TEST_KEY" in refused(*where, "--api-key-env", "FORGE_TEST_KEY")
    assert "--follow" in refused("talk@last", "--root", str(root), "--follow")


def test_a_port_that_is_taken_is_said(root: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        assert "cannot be served" in refused("talk", "--root", str(root), "--port", port)


def test_sigterm_lets_answers_finish_and_takes_no_more(root: Path) -> None:
    with ServeProcess(root, "talk", "--drain-seconds", "60") as server:
        body = {**ASKED, "max_tokens": 240, "stream": True, "logit_bias": {"256": -100}}
        address = f"{server.url}/v1/completions"
        with httpx.Client(timeout=60) as client, client.stream("POST", address, json=body) as told:
            lines = told.iter_lines()
            next(lines)
            server.terminate()
            server.wait_for_line("stopping: 1 answer")
            health = httpx.get(f"{server.url}/health", timeout=5)
            assert (health.status_code, health.json()) == (503, {"status": "draining"})
            late = httpx.post(address, json=ASKED, timeout=5)
            assert late.json()["error"]["code"] == "stopping"
            assert late.headers["retry-after"]
            rest = [line for line in lines if line]
            assert rest[-1] == "data: [DONE]"
            assert json.loads(rest[-2][6:])["choices"][0]["finish_reason"] == "length"
        assert server.wait() == 0
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{server.url}/health", timeout=5)


def test_answers_that_outlast_the_drain_are_cut_off_with_an_error(root: Path) -> None:
    with ServeProcess(root, "talk", "--drain-seconds", "0", "--max-batch", "64") as server:
        body = {**ASKED, "max_tokens": 240, "stream": True, "n": 64, "logit_bias": {"256": -100}}
        address = f"{server.url}/v1/completions"
        with httpx.Client(timeout=60) as client, client.stream("POST", address, json=body) as told:
            lines = told.iter_lines()
            next(lines)
            server.terminate()
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert json.loads(rest[-2][6:])["error"]["code"] == "stopping"
        assert server.wait() == 0
        assert "cut off" in server.log


def test_time_for_an_answer_is_bounded(root: Path) -> None:
    with ServeProcess(root, "talk", "--request-seconds", "0.1", "--max-batch", "64") as server:
        body = {**ASKED, "max_tokens": 240, "n": 64, "logit_bias": {"256": -100}}
        response = httpx.post(f"{server.url}/v1/completions", json=body, timeout=60)
        assert response.status_code == 408
        assert response.json()["error"]["code"] == "request_timeout"


def test_a_newer_best_checkpoint_is_taken_without_dropping_anyone(tmp_path: Path) -> None:
    directory = make_trained_run(tmp_path, "talk", steps=1, recipe=LONG)
    with ServeProcess(tmp_path, "talk", "--follow", "--follow-seconds", "0.3") as server:
        body = {**ASKED, "max_tokens": 24}
        address = f"{server.url}/v1/completions"
        answers: list[dict[str, Any]] = []
        stop = threading.Event()

        def ask() -> None:
            while not stop.is_set():
                response = httpx.post(address, json=body, timeout=60)
                assert response.status_code == 200, response.text
                answers.append(response.json())

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        text = directory.recipe.read_text()
        save_steps(RunDirectory(directory.path), [2], keep=2, text=text, best=2)
        server.wait_for_line("step 2 answers from now on")
        time.sleep(1)
        stop.set()
        for thread in threads:
            thread.join(60)
        steps = [answer["system_fingerprint"] for answer in answers]
        assert {"step-00000001", "step-00000002"} == set(steps)
        (expected,) = generate_texts(
            opened(tmp_path, "talk@2"), ["x"], temperature=0.0, max_new_tokens=24
        )
        newer = [answer for answer in answers if answer["system_fingerprint"] == "step-00000002"]
        assert {answer["choices"][0]["text"] for answer in newer} == {expected.text}
        assert server.metrics()["forge_reloads_total"] == 1
