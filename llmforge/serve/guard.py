"""What is checked of every request before anything reads it: where to, where from, who, how long.

A page of another site can make a browser send requests to a server on this machine, and by
rebinding a name of its own to 127.0.0.1 even read the answers. So the Host must be this server's,
and an Origin, where there is one, the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import json
import time
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

from llmforge.serve.api_errors import ApiError
from llmforge.serve.limits import Limits

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
_OPEN = ("/health",)
"""Paths that need no key, with all below them, as the page at / does: they tell nothing."""
_TOO_LARGE = 413
_DISCARD_SECONDS = 2.0
_DISCARD_BYTES = 64 << 20
"""How long, and how much, of a request that is too large is read and forgotten after the answer."""


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches a server bound to ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def served_names(host: str, allowed: Collection[str]) -> frozenset[str]:
    """Return the names that a Host header may have: what is bound, and what is allowed besides."""
    return frozenset({host.lower(), *(name.lower() for name in allowed), *LOOPBACK})


class Guard:
    """The outermost application: lets through what may come in.

    Args:
        app: the application behind it.
        names: that the Host header may have.
        any_address: whether it may be any address in numbers, as of a server bound to all.
        api_key: the token that has to be brought; None for none.
        limits: of the server.
        answered: is told (method, path, status, seconds) of each request.
        open_paths: need no key, with all below them, besides the page at /.
        command: whose --allow-host adds a name.
    """

    def __init__(
        self,
        app: Application,
        *,
        names: frozenset[str],
        any_address: bool,
        api_key: str | None,
        limits: Limits,
        answered: Callable[[str, str, int, float], None],
        open_paths: Collection[str] = _OPEN,
        command: str = "forge serve",
    ) -> None:
        self._app = app
        self._names = names
        self._any_address = any_address
        self._key = None if api_key is None else api_key.encode()
        self._limits = limits
        self._answered = answered
        self._open_paths = open_paths
        self._command = command

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request and hand it on."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        started = time.monotonic()
        status = 499  # the client left before an answer

        async def noted(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            try:
                headers = {
                    key.decode("latin-1").lower(): value.decode("latin-1")
                    for key, value in scope["headers"]
                }
                self._require_place(headers)
                self._require_key(scope["path"], headers)
                body = await self._body(headers, receive)
            except ApiError as error:
                await _respond(noted, error, receive)
                return
            if body is not None:
                await self._app(scope, _replayed(body, receive), noted)
        finally:
            self._answered(scope["method"], scope["path"], status, time.monotonic() - started)

    def _require_place(self, headers: dict[str, str]) -> None:
        host = headers.get("host", "")
        if not self._is_ours(host):
            raise ApiError(
                403,
                f"the Host '{host[:100]}' is not a name of this server; {self._command} "
                "--allow-host NAME adds one",
                code="unknown_host",
            )
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            raise ApiError(
                403, "requests from pages of other sites are refused", code="foreign_origin"
            )

    def _is_ours(self, host: str) -> bool:
        name = _without_port(host)
        if name in self._names:
            return True
        if not self._any_address:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _require_key(self, path: str, headers: dict[str, str]) -> None:
        if self._key is None or self._is_open(path):
            return
        kind, _, token = headers.get("authorization", "").partition(" ")
        given = token.strip().encode("latin-1")
        if kind.lower() != "bearer" or not hmac.compare_digest(given, self._key):
            raise ApiError(
                401,
                "the key is missing or wrong: send 'Authorization: Bearer KEY'",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    def _is_open(self, path: str) -> bool:
        return path == "/" or any(
            path == known or path.startswith(f"{known}/") for known in self._open_paths
        )

    async def _body(self, headers: dict[str, str], receive: Receive) -> bytes | None:
        """Return the body; None when the client left."""
        most = self._limits.max_body
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length) > most:
            raise _too_large(most)
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    part = message.get("body", b"")
                    size += len(part)
                    if size > most:
                        raise _too_large(most)
                    parts.append(part)
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise ApiError(
                408,
                f"the request did not arrive within {self._limits.body_seconds:g} seconds",
                code="request_timeout",
            ) from None


def _too_large(most: int) -> ApiError:
    return ApiError(
        _TOO_LARGE,
        f"the request is larger than {most:,} bytes",
        code="body_too_large",
        headers={"Connection": "close"},
    )


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that hands out ``body``, and then waits for the client to leave."""
    pending = [body]

    async def replay() -> MutableMapping[str, Any]:
        if pending:
            return {"type": "http.request", "body": pending.pop(), "more_body": False}
        return await receive()

    return replay


async def _respond(send: Send, error: ApiError, receive: Receive) -> None:
    """Send an error, then take what the client is still sending.

    A connection that is closed with bytes unread is reset, and a reset takes the answer with it
    before the client has read it.
    """
    body = json.dumps(error.body).encode()
    headers = {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        **error.headers,
    }
    raw = [(key.lower().encode(), value.encode()) for key, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": raw})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    if error.status == _TOO_LARGE:
        await _discard(receive)
    await send({"type": "http.response.body", "body": b""})


async def _discard(receive: Receive) -> None:
    """Read and forget the rest of a request, for a bounded time and size."""
    size = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DISCARD_SECONDS):
            while size < _DISCARD_BYTES:
                message = await receive()
                size += len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return
