"""Serving the page until it is asked to stop."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Collection

import uvicorn

from llmforge.serve.guard import Guard, served_names
from llmforge.serve.limits import Limits
from llmforge.serve.listening import EVERY_ADDRESS, Server
from llmforge.ui.answers import Answers
from llmforge.ui.app import build_app

_CONNECTIONS = 128
_BODY_BYTES = 1024


def run_server(
    answers: Answers,
    *,
    bound: socket.socket,
    host: str,
    allowed_hosts: Collection[str],
    token: str | None,
    ready: Callable[[], None],
) -> None:
    """Answer requests until SIGTERM or Ctrl-C.

    Args:
        answers: about the runs.
        bound: where to listen.
        host: its name.
        allowed_hosts: further names that a browser may call it by.
        token: what requests for anything of a run have to bring.
        ready: is called once requests are accepted.
    """

    stop, loops = asyncio.Event(), list[asyncio.AbstractEventLoop]()

    def end_streams() -> None:
        for loop in loops:
            loop.call_soon_threadsafe(stop.set)

    app = Guard(
        build_app(answers, stop=stop),
        names=served_names(host, allowed_hosts),
        any_address=host in EVERY_ADDRESS,
        api_key=token,
        limits=Limits(max_body=_BODY_BYTES),
        answered=lambda *_: None,
        open_paths=("/static",),
        command="forge ui",
    )
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=2,
    )
    server = Server(config, end_streams)

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        threading.Thread(target=answers.warm, daemon=True).start()
        bound.listen()  # a browser that is quicker than the server waits
        ready()
        await server.serve(sockets=[bound])

    with server.capture_signals():  # already while it starts, which asyncio would break off
        asyncio.run(serve())
