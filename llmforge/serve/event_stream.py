"""Sending an answer while it is written, as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from llmforge.serve.answers import DONE, Answer, event
from llmforge.serve.api_errors import ApiError
from llmforge.serve.engine import Ticket


async def when_gone(request: Request, ticket: Ticket) -> None:
    """Wait until the client leaves; its answer is then given up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    ticket.abandon()


class EventStream(Response):
    """A response that sends what is written until it ends, the client leaves or time is up.

    A client that does not take what it is sent is cut off: nothing is kept for it beyond the
    buffers of its connection.

    Args:
        request: of the client.
        ticket: what is written for it.
        answer: makes events of it.
        usage: whether the last event tells the number of tokens.
        deadline: when it has to end, in the loop's time.
        write_seconds: for the client to take an event.
        failure: returns the error to send for an update that has one.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        request: Request,
        *,
        ticket: Ticket,
        answer: Answer,
        usage: bool,
        deadline: float,
        write_seconds: float,
        failure: Callable[[Any], ApiError],
    ) -> None:
        super().__init__(
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )
        del self.headers["content-length"]
        self._request = request
        self._ticket = ticket
        self._answer = answer
        self._usage = usage
        self._deadline = deadline
        self._write_seconds = write_seconds
        self._failure = failure

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send everything."""
        del scope, receive
        leaving = asyncio.create_task(when_gone(self._request, self._ticket))
        try:
            start = {"status": self.status_code, "headers": self.raw_headers}
            await send({"type": "http.response.start", **start})
            end = await self._send_pieces(send)
            if end is not None:
                await self._write(send, end)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            pass  # the client reads too slowly: the connection is closed unfinished
        finally:
            self._ticket.close()
            leaving.cancel()

    async def _send_pieces(self, send: Any) -> bytes | None:
        """Send what is written; return the last events, or None when the client is gone."""
        while not self._ticket.done:
            try:
                async with asyncio.timeout_at(self._deadline):
                    news = await self._ticket.news()
            except TimeoutError:
                error = ApiError(408, "the time for this answer is up", code="request_timeout")
                return event(error.body) + DONE
            if self._ticket.abandoned:
                return None
            for _, update in news:
                if update.error is not None:
                    return event(self._failure(update.error).body) + DONE
            if body := b"".join(self._answer.pieces(news, usage=self._usage)):
                await self._write(send, body)
        return (self._answer.usage_event() if self._usage else b"") + DONE

    async def _write(self, send: Any, body: bytes) -> None:
        async with asyncio.timeout(self._write_seconds):
            await send({"type": "http.response.body", "body": body, "more_body": True})
