"""``forge serve``: a trained model behind HTTP, in the form of OpenAI's API."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmforge.cli import options
from llmforge.cli.listening import (
    LISTENING,
    AllowHosts,
    Host,
    Port,
    key_from_environment,
    require_packages,
)
from llmforge.errors import UsageError

if TYPE_CHECKING:
    from llmforge.checkpoint import Checkpoint
    from llmforge.serve.engine import Engine
    from llmforge.serve.limits import Limits
    from llmforge.serve.measurements import Measurements
    from llmforge.serve.served_model import ServedModel

_PACKAGES = ("fastapi", "uvicorn", "prometheus_client")
_LIMITS = "Limits"

Run = Annotated[
    str, options.argument("RUN", "RUN, RUN@best, RUN@last, RUN@STEP or the path of a checkpoint.")
]
ApiKeyEnv = Annotated[
    str | None,
    options.option(
        "--api-key-env",
        metavar="NAME",
        help="Environment variable with the key that clients have to bring.",
        panel=LISTENING,
    ),
]
Follow = Annotated[
    bool, typer.Option("--follow", help="Load a newer best checkpoint when the run has one.")
]
FollowSeconds = Annotated[
    float,
    typer.Option("--follow-seconds", min=0.1, help="Between two looks for a newer checkpoint."),
]
MaxBatch = Annotated[
    int,
    typer.Option(
        "--max-batch", min=1, help="Texts written at the same time.", rich_help_panel=_LIMITS
    ),
]
MaxQueue = Annotated[
    int,
    typer.Option(
        "--max-queue",
        min=0,
        help="Texts that wait beyond those; more are answered 429.",
        rich_help_panel=_LIMITS,
    ),
]
MaxTokens = Annotated[
    int | None,
    options.option(
        "--max-tokens", min=1, help="Tokens of an answer; else what fits.", panel=_LIMITS
    ),
]
MaxBody = Annotated[
    int, typer.Option("--max-body", min=1024, help="Bytes of a request.", rich_help_panel=_LIMITS)
]
RequestSeconds = Annotated[
    float,
    typer.Option(
        "--request-seconds",
        min=0.1,
        help="From a request to the end of its answer.",
        rich_help_panel=_LIMITS,
    ),
]
WriteSeconds = Annotated[
    float,
    typer.Option(
        "--write-seconds",
        min=0.1,
        help="For a client to take a piece of its answer.",
        rich_help_panel=_LIMITS,
    ),
]
DrainSeconds = Annotated[
    float,
    typer.Option(
        "--drain-seconds",
        min=0,
        help="To finish answers after SIGTERM or Ctrl-C.",
        rich_help_panel=_LIMITS,
    ),
]
PrefixTokens = Annotated[
    int | None,
    options.option(
        "--prefix-tokens",
        min=0,
        help="Tokens of earlier prompts kept for those that begin alike; else four contexts.",
        panel=_LIMITS,
    ),
]


def serve(
    run: Run,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    api_key_env: ApiKeyEnv = None,
    allow_host: AllowHosts = None,
    follow: Follow = False,
    follow_seconds: FollowSeconds = 10.0,
    max_batch: MaxBatch = 8,
    max_queue: MaxQueue = 64,
    max_tokens: MaxTokens = None,
    max_body: MaxBody = 1 << 20,
    request_seconds: RequestSeconds = 300.0,
    write_seconds: WriteSeconds = 30.0,
    drain_seconds: DrainSeconds = 30.0,
    prefix_tokens: PrefixTokens = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    weights: options.Weights = None,
    root: options.Root = None,
) -> None:
    """Serve a trained model over HTTP, in the form of OpenAI's API.

    A browser finds a page to try it there. Only this machine reaches it unless --host says
    otherwise, and then it needs --api-key-env. Options that a request leaves out are the recipe's.
    SIGTERM lets answers finish.
    """
    from llmforge.cli.common import error_console, run_root
    from llmforge.serve.limits import Limits

    require_packages("forge serve", _PACKAGES)
    api_key = key_from_environment(api_key_env, host, option="--api-key-env")
    if follow and ("@" in run or weights is not None):
        raise UsageError(
            "--follow takes the newest best checkpoint of a run",
            remedy="leave out @… and --weights",
        )
    limits = Limits(
        max_batch=max_batch,
        max_queue=max_queue,
        max_body=max_body,
        max_tokens=max_tokens,
        request_seconds=request_seconds,
        write_seconds=write_seconds,
        drain_seconds=drain_seconds,
        prefix_tokens=prefix_tokens,
    )

    def note(text: str) -> None:
        error_console().print(text, style="dim", highlight=False)

    _serve(
        run,
        root=run_root(root),
        loading=(device, dtype, weights),
        limits=limits,
        place=(host, port),
        allowed_hosts=allow_host or (),
        api_key=api_key,
        follow_seconds=follow_seconds if follow else None,
        note=note,
    )


def _serve(
    run: str,
    *,
    root: Path,
    loading: tuple[str, str, Path | None],
    limits: Limits,
    place: tuple[str, int],
    allowed_hosts: Sequence[str],
    api_key: str | None,
    follow_seconds: float | None,
    note: Callable[[str], None],
) -> None:
    from llmforge import __version__
    from llmforge.generation import load_checkpoint, locate
    from llmforge.generation.load import require_device
    from llmforge.serve.follow import Follower
    from llmforge.serve.listening import bound_socket
    from llmforge.serve.process import run_server
    from llmforge.serve.served_model import served_model

    device, dtype, weights = loading
    host, port = place
    require_device(device, dtype)
    bound = bound_socket(host, port)

    def load(checkpoint: Checkpoint) -> ServedModel:
        loaded = load_checkpoint(
            checkpoint, device=device, dtype=dtype, weights=weights, notice=note
        )
        return served_model(loaded, loaded.recipe.selected("generation"), limits=limits, note=note)

    checkpoint = locate(run, root=root, say=note)
    model = load(checkpoint)
    loaded = model.loaded
    note(str(loaded))
    if loaded.int8 is not None:
        from llmforge.int8_quality import describe_int8

        describe_int8(loaded, note=note)
    shown = f"[{host}]" if ":" in host else host
    note(f"http://{shown}:{bound.getsockname()[1]} answers; Ctrl-C or SIGTERM stops it")
    follower: list[Follower] = []

    def started(engine: Engine, measurements: Measurements) -> None:
        if follow_seconds is None:
            return
        loop = asyncio.get_running_loop()

        def take(newer: ServedModel) -> None:
            loop.call_soon_threadsafe(engine.replace, newer)
            loop.call_soon_threadsafe(measurements.reloaded)

        follower.append(
            Follower(
                run,
                root=root,
                current=checkpoint,
                load=load,
                take=take,
                note=note,
                seconds=follow_seconds,
            )
        )
        follower[0].start()

    try:
        run_server(
            model,
            bound=bound,
            host=host,
            allowed_hosts=allowed_hosts,
            api_key=api_key,
            limits=limits,
            version=__version__,
            note=note,
            started=started,
        )
    finally:
        for item in follower:
            item.stop()
