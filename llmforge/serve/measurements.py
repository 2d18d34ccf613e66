"""What ``/metrics`` shows, in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 60, 120, 300)
_PATHS = frozenset(
    {"/", "/health", "/metrics", "/openapi.json", "/v1/models", "/v1/completions"}
    | {"/v1/chat/completions"}
)


class Measurements:
    """Counters of one server; implements :class:`llmforge.serve.engine.Observer`."""

    def __init__(self) -> None:
        disable_created_metrics()  # twice the lines, for what a scraper knows itself
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "forge_requests",
            "Requests by path and status.",
            ["method", "path", "status"],
            registry=registry,
        )
        self._request_seconds = Histogram(
            "forge_request_seconds",
            "Seconds from a request to the end of its answer.",
            ["path"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._first_token = Histogram(
            "forge_time_to_first_token_seconds",
            "Seconds from taking a request to its first token.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._written = Counter("forge_tokens_generated", "Tokens generated.", registry=registry)
        self._read = Counter("forge_prompt_tokens", "Tokens of prompts.", registry=registry)
        self._reused = Counter(
            "forge_prompt_tokens_reused",
            "Tokens of prompts not computed, as an earlier prompt began so.",
            registry=registry,
        )
        self._ended = Counter(
            "forge_texts",
            "Texts by how they ended.",
            ["reason"],
            registry=registry,
        )
        self._reloads = Counter("forge_reloads", "Newer checkpoints loaded.", registry=registry)

    def show(self, *, name: str, help: str, value: Callable[[], float]) -> None:
        """Show a number that is asked for at each look."""
        Gauge(name, help, registry=self._registry).set_function(value)

    def answered(self, method: str, path: str, status: int, seconds: float) -> None:
        """Count a request."""
        known = path if path in _PATHS else "/v1/models" if path.startswith("/v1/models/") else "*"
        method = method if method in ("GET", "POST", "HEAD", "OPTIONS") else "*"
        self._requests.labels(method, known, str(status)).inc()
        self._request_seconds.labels(known).observe(seconds)

    def joined(self, *, prompt_tokens: int) -> None:
        """Count the tokens of a prompt."""
        self._read.inc(prompt_tokens)

    def written(self, *, tokens: int, first_after: float | None) -> None:
        """Count generated tokens."""
        self._written.inc(tokens)
        if first_after is not None:
            self._first_token.observe(first_after)

    def ended(self, *, reason: str, reused: int) -> None:
        """Count a text."""
        self._ended.labels(reason).inc()
        self._reused.inc(reused)

    def reloaded(self) -> None:
        """Count a checkpoint that was loaded while serving."""
        self._reloads.inc()

    def text(self) -> bytes:
        """Return everything."""
        return generate_latest(self._registry)
