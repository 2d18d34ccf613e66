"""``forge monitor``: watch runs while they train."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from llmforge.cli import options
from llmforge.cli.common import console, echo, emit_json, run_root
from llmforge.strict_json import strict_json

if TYPE_CHECKING:
    from llmforge.cli.keypress import Keys
    from llmforge.monitor import Snapshot, Watchlist
    from llmforge.monitor.stored import StoredRuns

    Watched = Watchlist | StoredRuns

TERMINAL_SECONDS = 2.0
PLAIN_SECONDS = 10.0
STORED_SECONDS = 15.0
_LOG_LINES = 20


def monitor(
    runs: Annotated[
        list[str] | None,
        options.argument(
            "RUN",
            "Run ids, or beginnings of ids; absent: all that are running, else the newest run.",
        ),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Show it once and end.")] = False,
    refresh: Annotated[
        float | None,
        options.option(
            "--refresh",
            metavar="S",
            min=0.2,
            help=f"Seconds between two looks; else {TERMINAL_SECONDS:.0f}, in a pipe "
            f"{PLAIN_SECONDS:.0f}, of runs in storage {STORED_SECONDS:.0f}.",
        ),
    ] = None,
    logs_only: Annotated[
        bool, typer.Option("--logs-only", help="Print the lines of the logs, as they come.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON: a line for each look, or all with --once.")
    ] = False,
    storage: Annotated[
        str | None, options.option("--storage", metavar="URL", help="Runs in the storage at URL.")
    ] = None,
    root: options.Root = None,
) -> None:
    """Watch runs while they train: progress, losses, speed, checkpoints, uploads, log lines.

    It continues when a run ends, and shows when it is resumed; q or Ctrl-C ends it. In a pipe, and
    on a terminal that cannot show more, it prints a line for each run whenever something changed.
    """
    from llmforge.errors import UsageError

    if logs_only and as_json:
        raise UsageError("--json does not go with --logs-only", remedy="take one of them")
    with _watched(runs or [], storage, root) as watched, _ended_by_signals():
        if once or storage is not None:
            watched.require()
        live = console().is_terminal and not console().is_dumb_terminal
        plain = not live or logs_only or as_json
        usual = PLAIN_SECONDS if plain and not logs_only else TERMINAL_SECONDS
        every = refresh or (usual if storage is None else STORED_SECONDS)
        if logs_only:
            _logs(watched, every, once=once)
        elif as_json:
            _json(watched, every, once=once)
        elif once:
            _show_once(watched)
        elif live:
            _screen(watched, every)
        else:
            _lines(watched, every)


@contextlib.contextmanager
def _watched(runs: list[str], storage: str | None, root: Path | None) -> Iterator[Watched]:
    if storage is None:
        from llmforge.monitor import Watchlist

        yield Watchlist(run_root(root), runs)
        return
    from llmforge.monitor.stored import StoredRuns

    with StoredRuns(storage, runs) as stored:
        yield stored


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Take Ctrl-C and SIGTERM as the usual way to end: the terminal is put right, and no error."""

    def stop(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    with contextlib.suppress(KeyboardInterrupt):
        yield


def _screen(watched: Watched, every: float) -> None:
    """Show the runs on the whole terminal until somebody ends it; leave the last picture there."""
    from rich.console import Group

    from llmforge.cli.keypress import Keys
    from llmforge.cli.monitor_view import MonitorView

    out = console()
    view = MonitorView(out, height=lambda: out.height)
    snapshots: list[Snapshot] = []
    with contextlib.suppress(KeyboardInterrupt), out.screen() as screen, Keys() as keys:
        while True:
            snapshots = watched.look()
            footer = f"q: quit   every {every:g} s"
            screen.update(Group(*view.lines(snapshots, footer=footer)))
            if _quits(keys, every):
                break
    for line in MonitorView(out, height=lambda: None).lines(snapshots):
        out.print(line)


def _quits(keys: Keys, seconds: float) -> bool:
    pressed = keys.wait(seconds)
    return "q" in pressed.lower() or pressed == "\x1b" or "\x04" in pressed


def _show_once(watched: Watched) -> None:
    from llmforge.cli.monitor_view import MonitorView

    out = console()
    for line in MonitorView(out, height=lambda: None).lines(watched.look()):
        out.print(line)


def _lines(watched: Watched, every: float) -> None:
    """Print a line for each run that has changed since its last line."""
    from llmforge.cli.monitor_view import status_line

    shown: dict[str, object] = {}
    while True:
        for run in watched.look():
            now = (run.state, run.starts, run.step, run.val_loss, run.last_checkpoint)
            if shown.get(run.id) != now:
                shown[run.id] = now
                echo(status_line(run))
        time.sleep(every)


def _json(watched: Watched, every: float, *, once: bool) -> None:
    """Print all that is known: one document, or a line of it for each look."""
    while True:
        found = [run.as_json() for run in watched.look()]
        if once:
            emit_json(found)
            return
        echo(strict_json(found))
        time.sleep(every)


def _logs(watched: Watched, every: float, *, once: bool) -> None:
    """Print the last lines of each log, and then those that are appended."""
    from llmforge.monitor.appended_lines import AppendedLines

    logs: dict[Path, AppendedLines] = {}
    while True:
        followers = watched.followers()
        for follower in followers:
            follower.look()  # the log of a run in storage is copied by it
            path = follower.log_file
            log = logs.setdefault(path, AppendedLines(path, last=_LOG_LINES))
            log.look()
            prefix = f"{follower.directory.id}: " if len(followers) > 1 else ""
            for line in log.lines():
                echo(f"{prefix}{line.decode(errors='replace').rstrip()}")
        if once:
            return
        time.sleep(every)
