"""64 clients of every kind at once, and a reader that stops: right answers, bounded memory."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from serve_process import ServeProcess, make_chat_run, opened

from llmforge.generation import generate_texts

CLIENTS = 64
TURNS = 3
KINDS = ("plain", "streaming", "chat", "slow", "cancelled", "oversized", "malformed", "impatient")
NEVER_ENDS = {"256": -100}


@dataclass
class Seen:
    """What all clients saw."""

    answers: list[tuple[dict[str, Any], str]] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    cut: int = 0
    waits: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("runs")
    make_chat_run(base)
    return base


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[ServeProcess]:
    limits = ("--max-batch", "16", "--max-queue", "64", "--max-body", "65536")
    with ServeProcess(root, "talk", *limits, "--write-seconds", "2") as process:
        yield process


async def client_of(
    kind: str, number: int, server: ServeProcess, seen: Seen, draw: random.Random
) -> None:
    client = openai.AsyncOpenAI(
        base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=240
    )
    async with client:
        for turn in range(TURNS):
            options: dict[str, Any] = {
                "seed": 100 * number + turn,
                "max_tokens": draw.randint(4, 24),
                "temperature": draw.choice([0.0, 0.7, 1.0]),
            }
            prompt = "The river " * draw.randint(1, 8) + str(number)
            asked = {"prompt": prompt, "chat": kind == "chat", **options}
            began = time.monotonic()
            await talk(kind, client, server, seen, asked, options, prompt)
            seen.waits.append(time.monotonic() - began)


async def talk(
    kind: str,
    client: openai.AsyncOpenAI,
    server: ServeProcess,
    seen: Seen,
    asked: dict[str, Any],
    options: dict[str, Any],
    prompt: str,
) -> None:
    complete = client.completions.create
    if kind == "plain":
        answer = await complete(model="talk", prompt=prompt, **options)
        seen.answers.append((asked, answer.choices[0].text))
    elif kind == "chat":
        said = await client.chat.completions.create(
            model="talk", messages=[{"role": "user", "content": prompt}], **options
        )
        seen.answers.append((asked, said.choices[0].message.content or ""))
    elif kind in ("streaming", "slow"):
        text = ""
        async for event in await complete(model="talk", prompt=prompt, stream=True, **options):
            text += event.choices[0].text
            if kind == "slow":
                await asyncio.sleep(0.05)
        seen.answers.append((asked, text))
    elif kind == "cancelled":
        stream = await complete(
            model="talk", prompt=prompt, stream=True, max_tokens=150, logit_bias=NEVER_ENDS
        )
        async for _ in stream:
            break
        await stream.close()
        seen.cut += 1
    elif kind == "impatient":
        with pytest.raises(openai.APITimeoutError):
            await complete(
                model="talk", prompt=prompt, max_tokens=150, logit_bias=NEVER_ENDS, timeout=0.005
            )
        seen.cut += 1
    else:
        body = {"model": "talk", "prompt": "x" * 70_000 if kind == "oversized" else 7}
        async with httpx.AsyncClient(timeout=240) as raw:
            response = await raw.post(f"{server.url}/v1/completions", json=body)
        assert response.json()["error"]["message"]
        seen.refused.append(response.status_code)


async def storm(server: ServeProcess, seen: Seen) -> None:
    async def watch() -> None:
        while True:
            seen.memory.append(server.memory())
            await asyncio.sleep(0.25)

    watcher = asyncio.create_task(watch())
    async with asyncio.TaskGroup() as group:
        for number in range(CLIENTS):
            kind = KINDS[number % len(KINDS)]
            group.create_task(client_of(kind, number, server, seen, random.Random(number)))
    watcher.cancel()


def test_64_clients_at_once_get_what_generate_writes(
    server: ServeProcess, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.client().completions.create(model="talk", prompt="warm", max_tokens=4)
    before = server.memory()
    seen = Seen()
    asyncio.run(storm(server, seen))
    loaded = opened(root, "talk")
    torch.set_num_threads(1)  # the model is tiny, and threads only wait for each other
    for asked, text in seen.answers:
        options = {key: asked[key] for key in ("seed", "temperature", "chat")}
        (alone,) = generate_texts(
            loaded, [asked["prompt"]], max_new_tokens=asked["max_tokens"], **options
        )
        assert text == alone.text, asked
    share = CLIENTS // len(KINDS) * TURNS
    assert len(seen.answers) == 4 * share
    assert sorted(seen.refused) == [400] * share + [413] * share
    assert seen.cut == 2 * share
    peak = max(seen.memory)
    with capsys.disabled():
        print(
            f"\n{CLIENTS} clients, {len(seen.waits)} requests: {len(seen.answers)} answers equal "
            f"to generate; longest wait {max(seen.waits):.1f} s; memory {before:.0f} MiB before, "
            f"{peak:.0f} MiB at most"
        )
    assert peak - before < 200
    assert max(seen.waits) < 120  # nobody starves
    deadline = time.monotonic() + 30
    while server.metrics()["forge_texts_unfinished"] and time.monotonic() < deadline:
        time.sleep(0.1)
    metrics = server.metrics()
    assert metrics["forge_texts_unfinished"] == 0  # those of clients that left are gone
    assert metrics['forge_texts_total{reason="cancelled"}'] > 0


def test_a_reader_that_stops_is_cut_off_and_others_are_not(server: ServeProcess) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    body = {
        "model": "talk",
        "messages": [{"role": "user", "content": "x"}],
        "n": 16,
        "max_tokens": 200,
        "stream": True,
        "logprobs": True,
        "top_logprobs": 20,  # megabytes: more than the buffers of a connection
        "logit_bias": NEVER_ENDS,
    }
    text = json.dumps(body)
    client = server.client()
    with socket.socket() as stopped:
        stopped.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stopped.connect((host, int(port)))
        stopped.sendall(
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode()
        )
        asked = time.monotonic()
        while "without completing response" not in server.log:
            assert time.monotonic() - asked < 90, "it was not cut off"
            answer = client.completions.create(model="talk", prompt="a", max_tokens=2)
            assert answer.choices  # others are answered meanwhile
            time.sleep(0.2)
        stopped.settimeout(30)
        received = b""
        while piece := stopped.recv(1 << 20):
            received = (received + piece)[-1000:]
        assert b"[DONE]" not in received
