"""What one client may ask of a server, and all of them together."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of a server.

    Attributes:
        max_batch: texts written at the same time.
        max_queue: texts that wait beyond those; more get 429.
        max_body: bytes of a request.
        max_tokens: tokens of an answer at most, whatever is asked; None: what fits the context.
        max_stops: stop texts of a request.
        request_seconds: from the request to the end of its answer, the queue included.
        body_seconds: for a request to arrive whole.
        write_seconds: for a client to take a piece of its answer.
        drain_seconds: for answers under way when the server is stopped.
        prefix_tokens: tokens of earlier prompts kept for those that begin alike; None: four
            contexts.
    """

    max_batch: int = 8
    max_queue: int = 64
    max_body: int = 1 << 20
    max_tokens: int | None = None
    max_stops: int = 4
    request_seconds: float = 300.0
    body_seconds: float = 30.0
    write_seconds: float = 30.0
    drain_seconds: float = 30.0
    prefix_tokens: int | None = None
