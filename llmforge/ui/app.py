"""The HTTP application: the page, its files, and answers about runs as JSON."""

from __future__ import annotations

import asyncio
import mimetypes
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException

from llmforge.errors import ForgeError, RunError
from llmforge.redaction import redact
from llmforge.strict_json import strict_json
from llmforge.ui.answers import Answers
from llmforge.ui.curves import Axis
from llmforge.ui.live_changes import Follower, event_lines
from llmforge.ui.snapshot import as_page, static_folder

MOST_RUNS = 64
"""In one request: more lines than that no comparison shows."""

HEADERS = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; object-src 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
"""Of every response. Nothing is loaded from elsewhere, and no other page reads or frames this."""

Runs = Annotated[list[str], Query(alias="run", max_length=MOST_RUNS)]


def build_app(answers: Answers, *, stop: asyncio.Event | None = None) -> FastAPI:
    """Return the application.

    Args:
        answers: about the runs.
        stop: ends the streams of events once it is set.
    """
    app = FastAPI(title="forge ui", docs_url=None, redoc_url=None, openapi_url=None)
    _handle_errors(app)
    _add_page(app)
    _add_runs(app, answers)
    _add_comparisons(app, answers)
    _add_events(app, answers, stop)

    app.add_middleware(_WithHeaders)
    return app


class _WithHeaders:
    """Adds :data:`HEADERS` to every response."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                is_icon = scope["path"].endswith(".svg")  # a browser asks for it at every view
                headers.setdefault("cache-control", "max-age=3600" if is_icon else "no-cache")
            await send(message)

        await self._app(scope, receive, with_headers if scope["type"] == "http" else send)


def _json(body: Any, status: int = 200) -> Response:
    headers = {"Cache-Control": "no-store"}
    return Response(strict_json(body), status, headers, media_type="application/json")


def _handle_errors(app: FastAPI) -> None:
    def problem(message: str, status: int) -> Response:
        return _json({"error": {"message": redact(message)}}, status)

    async def failed(_: Request, error: ForgeError) -> Response:
        return problem(str(error), 404 if isinstance(error, RunError) else 400)

    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return problem(f"{'.'.join(map(str, first['loc']))}: {first['msg']}", 400)

    async def other(_: Request, error: HTTPException) -> Response:
        return problem(str(error.detail), error.status_code)

    handlers: dict[Any, Callable[[Request, Any], Awaitable[Response]]] = {
        ForgeError: failed,
        RequestValidationError: invalid,
        HTTPException: other,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


def _add_page(app: FastAPI) -> None:
    mimetypes.add_type("text/javascript", ".js")  # Windows may say otherwise
    app.mount("/static", StaticFiles(directory=Path(str(static_folder()))), name="static")
    page = static_folder().joinpath("index.html").read_text(encoding="utf-8")

    @app.get("/")
    async def index() -> Response:
        return HTMLResponse(page)


def _add_runs(app: FastAPI, answers: Answers) -> None:
    @app.get("/api/status")
    def status() -> Response:
        return _json(answers.status())

    @app.get("/api/runs")
    def runs(where: Annotated[str | None, Query(max_length=2_000)] = None) -> Response:
        return _json(answers.runs() if where is None else answers.matching(where))

    @app.get("/api/runs/{run}")
    def one_run(run: str) -> Response:
        return _json(answers.run(run))

    @app.get("/api/runs/{run}/curves")
    def curves(
        run: str,
        metric: Annotated[list[str], Query(max_length=200)] = [],  # noqa: B006
        points: Annotated[int, Query(ge=4, le=5_000)] = 800,
        begin: float | None = None,
        end: float | None = None,
        along: Axis | None = None,
    ) -> Response:
        choice = {"names": metric, "points": points, "begin": begin, "end": end, "along": along}
        return _json(answers.curves(run, **choice))

    @app.get("/api/runs/{run}/log")
    def log(run: str, begin: Annotated[int | None, Query(ge=0)] = None) -> Response:
        return _json(answers.log(run, begin=begin))

    for name in ("checkpoints", "samples", "tests", "recipe"):
        _add_part(app, name, getattr(answers, name))


def _add_part(app: FastAPI, name: str, answer: Callable[[str], Any]) -> None:
    @app.get(f"/api/runs/{{run}}/{name}")
    def part(run: str) -> Response:
        return _json(answer(run))


def _add_comparisons(app: FastAPI, answers: Answers) -> None:
    @app.get("/api/compare")
    def compare(runs: Runs) -> Response:
        return _json(answers.compare(runs))

    @app.get("/api/sweeps")
    def sweeps() -> Response:
        return _json(answers.sweeps())

    @app.get("/api/sweeps/{sweep}")
    def one_sweep(sweep: str) -> Response:
        return _json(answers.sweep(sweep))

    @app.get("/api/export")
    def export(runs: Runs = [], sweep: str | None = None, view: str = "") -> Response:  # noqa: B006
        page = as_page(answers, runs=runs, sweep=sweep, view=view)
        headers = {"Content-Disposition": 'attachment; filename="runs.html"'}
        return HTMLResponse(page, headers=headers)


def _add_events(app: FastAPI, answers: Answers, stop: asyncio.Event | None) -> None:
    @app.get("/api/events")
    async def events(runs: Runs = [], since: int = 0) -> Response:  # noqa: B006
        follower = await asyncio.to_thread(Follower, answers, runs, since=since)
        return StreamingResponse(
            event_lines(follower, stop or asyncio.Event()),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )
