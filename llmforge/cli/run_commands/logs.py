"""``forge runs logs``: what a run logged, and what it is logging now."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from llmforge.cli import options
from llmforge.cli.common import echo, run_or_newest

_BLOCK = 65536
_LOOK_SECONDS = 0.5

Follow = Annotated[
    bool, typer.Option("--follow", "-f", help="Go on printing until the run is no longer running.")
]
Lines = Annotated[
    int | None,
    options.option("--lines", "-n", metavar="N", min=0, help="The last N lines; else all."),
]


def logs(
    run: options.RunOrNewest = None,
    follow: Follow = False,
    lines: Lines = None,
    root: options.Root = None,
) -> None:
    """Print what a run logged."""
    from llmforge.errors import RunError
    from llmforge.insight.compare import read_recipe
    from llmforge.insight.inventory import artifacts_of

    directory = run_or_newest(root, run)
    path = artifacts_of(directory, read_recipe(directory)).get("log")
    if path is None:
        raise RunError(
            f"{directory.id} has no log",
            remedy=f"'forge runs status {directory.id}' says how far it is",
        )
    with path.open("rb") as file:
        file.seek(0 if lines is None else _start_of_last(file, lines))
        _print(file)
        while follow:
            alive = _is_running(directory.path)
            _print(file)
            if not alive:
                break
            time.sleep(_LOOK_SECONDS)
            if path.stat().st_size < file.tell():  # it was begun again
                file.seek(0)


def _print(file: BinaryIO) -> None:
    for line in file:
        echo(line.decode("utf-8", "replace").removesuffix("\n").removesuffix("\r"))


def _start_of_last(file: BinaryIO, lines: int) -> int:
    """Return where the last ``lines`` lines begin; the file is read from its end."""
    place = file.seek(0, os.SEEK_END)
    end, found = place, 0
    while place > 0:
        size = min(_BLOCK, place)
        place -= size
        file.seek(place)
        block = file.read(size)
        at = len(block)
        while (at := block.rfind(b"\n", 0, at)) >= 0:
            if place + at == end - 1:
                continue  # the line break that ends the file
            found += 1
            if found >= lines:
                return place + at + 1 if lines else end
    return 0 if lines else end


def _is_running(path: Path) -> bool:
    from llmforge.rundir import RunDirectory, entry_of

    return entry_of(RunDirectory(path)).state == "running"
