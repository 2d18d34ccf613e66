"""Running the server until it is asked to stop, and then finishing what is being written."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
import sys
from collections.abc import Callable, Collection, Iterator
from typing import Any

import uvicorn

from llmforge.errors import ForgeError, UsageError
from llmforge.serve.app import build_app
from llmforge.serve.engine import Engine
from llmforge.serve.guard import Guard, served_names
from llmforge.serve.limits import Limits
from llmforge.serve.measurements import Measurements
from llmforge.serve.served_model import ServedModel

_SWITCH_SECONDS = 0.0005
"""How long the event loop may keep the interpreter from the model's thread."""
_HEAD_ROOM = 64
"""Connections beside those that answers are written to."""
_EVERY_ADDRESS = frozenset({"0.0.0.0", "::", ""})


class Server(uvicorn.Server):
    """uvicorn that drains when it is asked to stop, and then ends without an error.

    While answers are being written it still takes connections, so that probes of ``/health`` learn
    that it is draining and no longer send it anybody.

    Args:
        config: of uvicorn.
        on_stop: is called once, when it is first asked to stop.
        busy: whether answers are still being written.
    """

    def __init__(
        self, config: uvicorn.Config, on_stop: Callable[[], None], busy: Callable[[], bool]
    ) -> None:
        super().__init__(config)
        self._on_stop = on_stop
        self._busy = busy
        self._draining = False

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Drain at the first signal, stop at once at the second; neither kills the process."""

        def stop(_number: int, _frame: Any) -> None:
            if self._draining:
                self.should_exit = self.force_exit = True
                return
            self._draining = True
            self._on_stop()

        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, stop) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def on_tick(self, counter: int) -> bool:
        """Return whether to stop taking connections and end; uvicorn asks ten times a second."""
        if self._draining and not self._busy():
            self.should_exit = True
        return await super().on_tick(counter)


def bound_socket(host: str, port: int) -> socket.socket:
    """Return a socket bound to the address; port 0 is any that is free.

    Raises:
        UsageError: it cannot be bound.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise UsageError(
            f"{host}:{port} cannot be served: {error.strerror or error}",
            remedy="choose another --port, or stop what has it"
            if error.errno in (errno.EADDRINUSE, errno.EACCES)
            else "--host is an address or name of this machine",
        ) from None
    return bound


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
        any_address=host in _EVERY_ADDRESS,
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
        await Server(config, stop, lambda: engine.unfinished > 0).serve(sockets=[bound])

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
