"""Why a run is not running, and what to type next."""

from __future__ import annotations

import shlex
from pathlib import Path

from llmforge.run_root import root_option
from llmforge.rundir.index import RunEntry, completion_of
from llmforge.rundir.record import FINISHED


def next_command(entry: RunEntry, *, elsewhere: bool = False) -> str:
    """Return what to type next for a run in its state; empty while it is running.

    Args:
        entry: the run.
        elsewhere: it is not to be typed here, so that directories have to be named.
    """
    run = f"{entry.directory.id}{root_option(entry.directory.root)}"
    if entry.state == "running":
        return ""
    if entry.problem:
        return f"forge runs clear {run}"
    if entry.state in FINISHED:
        completion = completion_of(entry.directory)
        return completion.next_command if completion else f"forge generate {run}"
    return _command_again(entry, here="" if elsewhere else str(Path.cwd()))


def why_ended(entry: RunEntry) -> str:
    """Return in words why a run is not running; empty when it is."""
    if entry.problem:
        return entry.problem
    if entry.state == "crashed":
        return "its process is gone: killed, or the machine went down"
    return "" if entry.state == "running" else entry.record.exit_reason


def _command_again(entry: RunEntry, *, here: str) -> str:
    """Return the command the run was started with, or one that trains its stored recipe."""
    provenance = entry.record.provenance
    command = [str(part) for part in provenance.get("command") or ()]
    hidden = any("***" in part for part in command)
    if not command or hidden or Path(command[0]).name not in ("forge", "__main__.py"):
        return shlex.join(["forge", "train", str(entry.directory.recipe)])
    place = provenance.get("directory") or ""
    again = shlex.join(["forge", *command[1:]])
    return again if place in ("", here) else f"cd {shlex.quote(place)} && {again}"
