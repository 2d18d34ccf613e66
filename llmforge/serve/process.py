"""Running the server until it is asked to stop, and then finishing what is being written."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable, Collection

import uvicorn

from llmforge.errors import ForgeError
from llmforge.serve.app import build_app
from llmforge.serve.engine import Engine
from llmforge.serve.guard import Guard, served_names
from llmforge.serve.limits import Limits
from llmforge.serve.listening import EVERY_ADDRESS, Server
from llmforge.serve.measurements import Measurements
from llmforge.serve.served_model import ServedModel

_SWITCH_SECONDS = 0.0005
"""How long the event loop may keep the interpreter from the model's thread."""
_HEAD_ROOM = 64
"""Connections beside those that answers are written to."""


def run_server(
    model: ServedModel,
    *,
    bound: socket.socket,
    host: str,
    allowed_hosts: Collection[str],
    api_key: str | None,
    limits: Limits,
    version: str,
    note: Callable[[str], None],
    started: Callable[[Engine, Measurements], None] = lambda *_: None,
) -> None:
    """Answer requests until SIGTERM or Ctrl-C.

    Args:
        model: what answers.
        bound: where to listen.
        host: its name.
        allowed_hosts: further names that clients may call it by.
        api_key: what clients have to bring.
        limits: of the server.
        version: of llmforge.
        note: shows a line to who runs it.
        started: is given the engine once it runs.
    """
    sys.setswitchinterval(_SWITCH_SECONDS)
    measurements = Measurements()
    engine = Engine(model, limits=limits, observer=measurements)
    _show(measurements, engine)
    app = Guard(
        build_app(engine, measurements, version=version),
        names=served_names(host, allowed_hosts),
        any_address=host in EVERY_ADDRESS,
        api_key=api_key,
        limits=limits,
        answered=measurements.answered,
    )
    loops: list[asyncio.AbstractEventLoop] = []

    def stop() -> None:
        engine.stopping = True
        note(f"stopping: {_count(engine.unfinished)} still being written")
        if loops:
            loops[0].call_soon_threadsafe(loops[0].call_later, limits.drain_seconds, cut)

    def cut() -> None:
        if count := engine.fail_all(ForgeError("the server is being stopped")):
            note(f"{_count(count)} cut off after {limits.drain_seconds:g} seconds")

    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=4 * (limits.max_batch + limits.max_queue) + _HEAD_ROOM,
        timeout_graceful_shutdown=round(limits.drain_seconds) + 5,
    )

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        started(engine, measurements)
        await server.serve(sockets=[bound])

    server = Server(config, stop, lambda: engine.unfinished > 0)
    with server.capture_signals():  # already while it starts, which asyncio would break off
        asyncio.run(serve())
    note("stopped")


def _show(measurements: Measurements, engine: Engine) -> None:
    measurements.show(
        name="forge_texts_unfinished",
        help="Texts being written or waiting.",
        value=lambda: engine.unfinished,
    )
    measurements.show(
        name="forge_texts_waiting",
        help="Texts waiting for a place in the batch.",
        value=lambda: engine.waiting,
    )
    measurements.show(
        name="forge_checkpoint_step",
        help="Step of the checkpoint that answers.",
        value=lambda: engine.model.loaded.checkpoint.step,
    )


def _count(count: int) -> str:
    return f"{count} answer{'s' if count != 1 else ''}"
