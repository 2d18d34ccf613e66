"""Taking an address to listen at, and a server that stops without an error when it is asked to."""

from __future__ import annotations

import contextlib
import errno
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

from llmforge.errors import UsageError

EVERY_ADDRESS = frozenset({"0.0.0.0", "::", ""})
"""Hosts that stand for all addresses of the machine."""


class Server(uvicorn.Server):
    """uvicorn that drains when it is asked to stop, and then ends without an error.

    While answers are being written it still takes connections, so that probes of ``/health`` learn
    that it is draining and no longer send it anybody.

    Args:
        config: of uvicorn.
        on_stop: is called once, when it is first asked to stop.
        busy: whether answers are still being written; without it, none ever are.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        on_stop: Callable[[], None],
        busy: Callable[[], bool] = lambda: False,
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
    # with the protocol named, or asyncio leaves Nagle's algorithm on: 40 ms for every answer
    bound = socket.socket(family, proto=socket.IPPROTO_TCP)
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
