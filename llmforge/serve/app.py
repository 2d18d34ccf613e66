"""The HTTP application: OpenAI's routes, health, metrics and a page to try it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Annotated, Any

from fastapi import FastAPI, Path, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException

from llmforge.errors import ForgeError
from llmforge.serve import body_errors
from llmforge.serve.answers import Answer, ChatForm, CompletionForm
from llmforge.serve.api_errors import ApiError, model_failed, stopping
from llmforge.serve.bodies import ChatBody, CompletionBody, ErrorBody, SamplingBody
from llmforge.serve.engine import Engine, Ticket
from llmforge.serve.event_stream import EventStream, when_gone
from llmforge.serve.jobs import Job, chat_job, completion_job
from llmforge.serve.measurements import CONTENT_TYPE, Measurements
from llmforge.serve.served_model import ServedModel

_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": text}
    for status, text in {
        400: "a parameter is wrong, unknown or not supported",
        401: "the key is missing or wrong",
        403: "the request is for, or from, another place",
        404: "there is no such model",
        408: "it took too long",
        413: "the request is too large",
        415: "the body is not sent as application/json",
        429: "too many requests wait; see Retry-After",
        500: "the model failed",
        503: "the server is being stopped",
    }.items()
}
_CODES = {404: "not_found", 405: "method_not_allowed"}
_PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def build_app(engine: Engine, measurements: Measurements, *, version: str) -> FastAPI:
    """Return the application; the engine starts and stops with it."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        engine.start()
        yield
        await asyncio.to_thread(engine.stop)

    app = FastAPI(
        title="forge serve",
        version=version,
        lifespan=lifespan,
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
    )
    _handle_errors(app)
    _add_status(app, engine, measurements)
    _add_models(app, engine)
    _add_writing(app, engine)
    _state_limits(app, engine)
    return app


def _state_limits(app: FastAPI, engine: Engine) -> None:
    """Make the OpenAPI document say which model is here and what its limits are."""
    model, limits = engine.model, engine.limits
    document = app.openapi()  # which FastAPI keeps
    longest = min(model.context - 1, limits.max_tokens or model.context)
    bounds = {"n": limits.max_batch, "max_tokens": longest, "max_completion_tokens": longest}
    for body in ("CompletionBody", "ChatBody"):
        fields = document["components"]["schemas"][body]["properties"]
        fields["model"]["enum"] = [model.id]
        for name, most in bounds.items():
            for kind in _kinds(fields.get(name, {})):
                kind["maximum"] = most
    prompt = document["components"]["schemas"]["CompletionBody"]["properties"]["prompt"]
    for kind in _kinds(prompt):
        if "maximum" in kind:
            kind["maximum"] = model.loaded.tokenizer.vocab_size - 1
    (parameter,) = document["paths"]["/v1/models/{model}"]["get"]["parameters"]
    parameter["schema"]["enum"] = [model.id]


def _kinds(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the schemas of integers in ``schema``, those of items and alternatives included."""
    if schema.get("type") == "integer":
        yield schema
    for inner in [*schema.get("anyOf", ()), schema.get("items", {})]:
        if inner:
            yield from _kinds(inner)


def _handle_errors(app: FastAPI) -> None:
    async def refused(_: Request, error: ApiError) -> Response:
        return JSONResponse(error.body, status_code=error.status, headers=error.headers)

    async def invalid(request: Request, error: RequestValidationError) -> Response:
        content_type = request.headers.get("content-type", "")
        told = body_errors.invalid(error.errors(), error.body, content_type=content_type)
        return JSONResponse(told.body, status_code=told.status)

    async def other(_: Request, error: HTTPException) -> Response:
        if error.status_code == 400:  # FastAPI's own, of a body that its reader gave up
            told = body_errors.unreadable(error.__cause__)
        else:
            told = ApiError(
                error.status_code, str(error.detail), code=_CODES.get(error.status_code)
            )
        headers = dict(error.headers or {})
        return JSONResponse(told.body, status_code=error.status_code, headers=headers)

    handlers: dict[Any, Callable[[Request, Any], Awaitable[Response]]] = {
        ApiError: refused,
        RequestValidationError: invalid,
        HTTPException: other,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


def _add_status(app: FastAPI, engine: Engine, measurements: Measurements) -> None:
    page = files("llmforge.serve").joinpath("page.html").read_text(encoding="utf-8")

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        headers = {"Content-Security-Policy": _PAGE_POLICY, "Cache-Control": "no-cache"}
        return HTMLResponse(page, headers=headers)

    @app.get("/health", responses={503: {"description": _ERRORS[503]["description"]}})
    async def health() -> Response:
        if engine.stopping:
            return JSONResponse({"status": "draining"}, status_code=503)
        return JSONResponse({"status": "ok"})

    @app.get("/metrics", response_class=Response, responses={401: _ERRORS[401]})
    async def metrics() -> Response:
        return Response(measurements.text(), media_type=CONTENT_TYPE)


def _add_models(app: FastAPI, engine: Engine) -> None:
    def described(model: ServedModel) -> dict[str, Any]:
        return {
            "id": model.id,
            "object": "model",
            "created": int(model.loaded.checkpoint.path.stat().st_mtime)
            if model.loaded.checkpoint.path.exists()
            else 0,
            "owned_by": "llmforge",
            "step": model.loaded.checkpoint.step,
            "context": model.context,
            "chat": model.loaded.chat is not None,
        }

    @app.get("/v1/models", responses={401: _ERRORS[401]})
    async def models() -> Response:
        return JSONResponse({"object": "list", "data": [described(engine.model)]})

    @app.get("/v1/models/{model}", responses={key: _ERRORS[key] for key in (401, 404)})
    async def one_model(model: Annotated[str, Path()]) -> Response:
        _require_model(engine, model)
        return JSONResponse(described(engine.model))


def _add_writing(app: FastAPI, engine: Engine) -> None:
    @app.post("/v1/completions", responses=_ERRORS)
    async def completions(body: CompletionBody, request: Request) -> Response:
        model = _ready(engine, body)
        job = await completion_job(body, model, engine.limits)
        form = CompletionForm(
            model.loaded.tokenizer, logprobs=body.logprobs is not None, echo=body.echo
        )
        return await _written(engine, model, job, body, request, Answer(job, model, form))

    @app.post("/v1/chat/completions", responses=_ERRORS)
    async def chat_completions(body: ChatBody, request: Request) -> Response:
        model = _ready(engine, body)
        job = await chat_job(body, model, engine.limits)
        form = ChatForm(model.loaded.tokenizer, logprobs=body.logprobs)
        return await _written(engine, model, job, body, request, Answer(job, model, form))


def _ready(engine: Engine, body: SamplingBody) -> ServedModel:
    if engine.stopping:
        raise stopping()
    _require_model(engine, body.model)
    if body.stream_options is not None and not body.stream:
        raise ApiError(
            400,
            "stream_options are for stream = true",
            param="stream_options",
            code="invalid_value",
        )
    return engine.model


def _require_model(engine: Engine, name: str) -> None:
    if name != engine.model.id:
        raise ApiError(
            404,
            f"there is no model '{name[:100]}' here: it is '{engine.model.id}'",
            param="model",
            code="model_not_found",
        )


async def _written(
    engine: Engine,
    model: ServedModel,
    job: Job,
    body: SamplingBody,
    request: Request,
    answer: Answer,
) -> Response:
    limits = engine.limits
    ticket = engine.submit(model, job.continuations)
    deadline = asyncio.get_running_loop().time() + limits.request_seconds

    def failure(error: ForgeError) -> ApiError:
        return stopping() if engine.stopping else model_failed(error.message)

    if body.stream:
        return EventStream(
            request,
            ticket=ticket,
            answer=answer,
            usage=body.stream_options is not None and body.stream_options.include_usage,
            deadline=deadline,
            write_seconds=limits.write_seconds,
            failure=failure,
        )
    leaving = asyncio.create_task(when_gone(request, ticket))
    try:
        await _collect(ticket, answer, deadline=deadline, failure=failure)
        return JSONResponse(answer.whole())
    finally:
        ticket.close()
        leaving.cancel()


async def _collect(
    ticket: Ticket,
    answer: Answer,
    *,
    deadline: float,
    failure: Callable[[ForgeError], ApiError],
) -> None:
    """Wait for all texts of a request.

    Raises:
        ApiError: the model failed, time is up, or the client is gone.
    """
    while not ticket.done:
        try:
            async with asyncio.timeout_at(deadline):
                news = await ticket.news()
        except TimeoutError:
            raise ApiError(408, "the time for this answer is up", code="request_timeout") from None
        if ticket.abandoned:
            raise ApiError(408, "the client left", code="client_left")
        for place, update in news:
            if update.error is not None:
                raise failure(update.error)
            answer.take(place, update, keep=True)
