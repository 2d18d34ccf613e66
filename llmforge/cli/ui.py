"""``forge ui``: a local page that shows runs, and the same as one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmforge.cli import options
from llmforge.cli.common import error_console, run_root
from llmforge.cli.listening import (
    LISTENING,
    AllowHosts,
    Host,
    Port,
    key_from_environment,
    require_packages,
)

app = typer.Typer(
    help="Look at runs in a browser: live curves, comparison, sweeps.", invoke_without_command=True
)

TokenEnv = Annotated[
    str | None,
    options.option(
        "--token-env",
        metavar="NAME",
        help="Environment variable with the token that the page asks for.",
        panel=LISTENING,
    ),
]
NoOpen = Annotated[bool, typer.Option("--no-open", help="Do not open a browser.")]
ManyRuns = Annotated[
    list[str] | None,
    options.argument("RUN", "Run ids, or the beginnings of some; several are compared."),
]
OfSweep = Annotated[
    str | None, options.option("--sweep", metavar="SWEEP", help="A sweep with its trials.")
]
Page = Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Write the page there.")]


@app.callback()
def ui(
    ctx: typer.Context,
    host: Host = "127.0.0.1",
    port: Port = 8321,
    token_env: TokenEnv = None,
    allow_host: AllowHosts = None,
    no_open: NoOpen = False,
    root: options.Root = None,
) -> None:
    """Look at runs in a browser: live curves, comparison, sweeps.

    Only this machine reaches the page unless --host says otherwise, and then it needs
    --token-env. It reads the directory of runs and writes nothing; Ctrl-C stops it.
    """
    if ctx.invoked_subcommand is not None:
        ctx.obj = root
        return
    require_packages("forge ui", ("fastapi", "uvicorn"))
    token = key_from_environment(token_env, host, option="--token-env")
    from llmforge import __version__
    from llmforge.serve.listening import bound_socket
    from llmforge.ui.answers import Answers
    from llmforge.ui.server import run_server

    directory = run_root(root)
    answers = Answers(directory, version=__version__)
    answers.runs()  # a root that cannot be read is said here, not in the browser
    bound = bound_socket(host, port)
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{bound.getsockname()[1]}"

    def ready() -> None:
        out = error_console()
        out.print(f"{directory} is shown at {address}; Ctrl-C stops it", highlight=False)
        if not no_open:
            _open_browser(address)

    run_server(
        answers,
        bound=bound,
        host=host,
        allowed_hosts=allow_host or (),
        token=token,
        ready=ready,
    )


@app.command()
def export(
    ctx: typer.Context,
    output: Page,
    runs: ManyRuns = None,
    sweep: OfSweep = None,
    force: options.Force = False,
    root: options.Root = None,
) -> None:
    """Write runs, a comparison or a sweep as one HTML file that opens without a server."""
    from llmforge import __version__
    from llmforge.errors import UsageError
    from llmforge.rundir import find_run
    from llmforge.rundir.atomic import write_text
    from llmforge.ui.answers import Answers
    from llmforge.ui.snapshot import as_page

    directory = run_root(root or ctx.obj)
    if output.exists() and not force:
        raise UsageError(f"{output} exists", remedy="--force overwrites it")
    ids = [find_run(directory, text, gone=True).id for text in runs or ()]
    if sweep is not None:
        from llmforge.sweeps.sweep import find_sweep

        sweep = find_sweep(directory, sweep).id
    page = as_page(Answers(directory, version=__version__), runs=ids, sweep=sweep)
    try:
        write_text(output, page)
    except OSError as error:
        raise UsageError(
            f"{output} cannot be written: {error.strerror}", remedy="-o names another file"
        ) from error
    error_console().print(f"written to {output}, {len(page) / 1e6:.1f} MB", highlight=False)


def _open_browser(address: str) -> None:
    """Open a browser beside the server, where there is one that draws."""
    import os
    import sys
    import threading
    import webbrowser

    draws = sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )
    if draws:  # else a text browser would take the terminal
        threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
