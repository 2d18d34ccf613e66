"""``forge runs sync``: deliver later what the trackers of a run lack, and messages to people."""

from __future__ import annotations

from typing import Annotated

import typer

from llmforge.cli import options
from llmforge.cli.common import echo, run_root


def sync(
    run: options.Run,
    trackers: Annotated[
        list[str] | None,
        typer.Option(
            "--tracker",
            metavar="NAME",
            help="Only this tracker, even one the run was not started with; may be repeated.",
        ),
    ] = None,
    timeout: Annotated[
        float,
        typer.Option(
            "--timeout",
            metavar="S",
            min=0,
            help="Give up after so many seconds without any progress.",
        ),
    ] = 30.0,
    root: options.Root = None,
) -> None:
    """Deliver to the trackers of a run what they could not be given, and messages not sent.

    Exit codes: 0 all is delivered, 1 something still waits, 2 a tracker is not ready, 3 the run
    is being trained.
    """
    from llmforge.courier.deliver_later import sync_trackers
    from llmforge.courier.notifications import NOTIFY
    from llmforge.errors import UsageError
    from llmforge.insight.compare import read_recipe
    from llmforge.insight.inventory import tracker_names
    from llmforge.rundir import find_run

    directory = find_run(run_root(root), run)
    recipe = read_recipe(directory)
    names = trackers or tracker_names(recipe)
    if not trackers and recipe.get("notify"):
        names = [*names, NOTIFY]
    if not names:
        raise UsageError(
            f"run {directory.id} has no trackers",
            remedy=f"forge runs sync {directory.id} --tracker NAME gives its events to one",
        )

    def failed(tracker: str, message: str) -> None:
        echo(f"{tracker}: {message}", err=True)

    found = sync_trackers(
        directory,
        names,
        patience=timeout,
        on_error=failed,
        on_notice=lambda text: echo(text, err=True),
    )
    for name, item in found.items():
        waits = f", {item.pending:,} still wait" if item.pending else ""
        where = f": {item.link}" if item.link else ""
        if name.startswith(f"{NOTIFY}."):
            echo(f"{name}: {item.new:,} sent{waits}")
        else:
            echo(f"{name}: {item.new:,} events delivered, {item.total:,} in all{waits}{where}")
    if any(item.pending for item in found.values()):
        echo(f"not everything is delivered; try again: forge runs sync {directory.id}", err=True)
        raise typer.Exit(1)
