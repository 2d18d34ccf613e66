"""``forge checkpoints``: what a run has saved, and what of it shall stay."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmforge.cli import options
from llmforge.cli.common import echo, run_or_newest

app = typer.Typer(no_args_is_help=True, help="Look at checkpoints and keep some.")

Address = Annotated[
    str,
    typer.Argument(
        metavar="CHECKPOINT", help="RUN@best, RUN@last, RUN@STEP or a path.", show_default=False
    ),
]


@app.command("list")
def list_saved(
    run: options.RunOrNewest = None,
    verify: Annotated[bool, typer.Option("--verify", help="Read and hash every file.")] = False,
    as_json: options.AsJson = False,
    root: options.Root = None,
) -> None:
    """List the checkpoints of a run, damaged ones too."""
    import dataclasses

    from llmforge.cli.common import console, emit_json
    from llmforge.cli.run_views import print_checkpoints
    from llmforge.insight.inventory import checkpoints_of

    directory = run_or_newest(root, run)
    found = checkpoints_of(directory, hashes=verify)
    if as_json:
        emit_json([dataclasses.asdict(info) for info in found])
    elif found:
        print_checkpoints(console(), found)
    else:
        echo(f"{directory.id} has no checkpoint yet")


@app.command()
def pin(checkpoint: Address, root: options.Root = None) -> None:
    """Keep a checkpoint whatever checkpoint.keep_last and keep_best say."""
    _set_pin(checkpoint, root, pinned=True)


@app.command()
def unpin(checkpoint: Address, root: options.Root = None) -> None:
    """Let retention treat a pinned checkpoint like any other."""
    _set_pin(checkpoint, root, pinned=False)


def _set_pin(address: str, root: Path | None, *, pinned: bool) -> None:
    from llmforge import checkpoint
    from llmforge.cli.common import run_root
    from llmforge.errors import CheckpointError
    from llmforge.generation import locate

    found = locate(address, root=run_root(root))
    try:
        (checkpoint.pin if pinned else checkpoint.unpin)(found.path)
    except OSError as error:
        raise CheckpointError(f"{found.path} cannot be written: {error.strerror}") from error
    echo(f"{found.path} {'stays until it is unpinned' if pinned else 'is not pinned'}")
