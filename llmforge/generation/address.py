"""Addresses of checkpoints: ``RUN``, ``RUN@best``, ``RUN@last``, ``RUN@STEP``, or a path.

Instead of a run of this machine it may be one that a tracker knows, such as ``mlflow:ID``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from llmforge.checkpoint import Checkpoint, list_checkpoints, open_checkpoint, resolve
from llmforge.checkpoint.manifest import MANIFEST
from llmforge.errors import UsageError
from llmforge.rundir import RunDirectory, find_run, has_record

_POINTERS = ("best", "last")


def locate(address: str, *, root: Path, say: Callable[[str], None] = lambda _: None) -> Checkpoint:
    """Return the checkpoint an address means.

    ``RUN`` is a run id or a unique beginning of one; it comes before a path of the same name.
    A path may lead to a run directory (with or without ``@…``), to a checkpoint, or to the
    ``best`` or ``last`` beside it. Without ``@…`` the best checkpoint is meant, or the last one
    when none was ever the best. ``TRACKER:…`` is a run in a tracker's service, whose checkpoint is
    fetched if it is not here; ``say`` is called with what happens.

    Raises:
        RunError: no run matches.
        UsageError: several runs match, or the address makes no sense.
        CheckpointError: the run has no such checkpoint, or it is damaged.
    """
    if not address.strip():
        raise UsageError("the address of the checkpoint is empty", remedy="give a run or a path")
    name, _, which = _split(address)
    if not name:
        raise UsageError(f"{address} names no run", remedy=f"write RUN{address}")
    if ":" in address and not Path(address).expanduser().exists():
        from llmforge.generation.tracked import is_tracked, locate_tracked

        if is_tracked(address):
            return locate_tracked(name, which, root=root, say=say)
    if Path(name).name == name and has_record(RunDirectory(root / name)):
        return _of_run(RunDirectory(root / name), which)
    path = Path(address).expanduser()
    if (path / MANIFEST).exists():
        return open_checkpoint(path)
    if path.name in _POINTERS and path.parent.name == "checkpoints":
        return resolve(path.parent, path.name)
    directory = RunDirectory(Path(name).expanduser())
    if directory.checkpoints.is_dir():
        return _of_run(directory, which)
    if path.exists() or "/" in address:
        raise _no_checkpoint(path)
    return _of_run(find_run(root, name), which)


def best_or_last(directory: RunDirectory) -> Checkpoint:
    """Return the best checkpoint of a run, or its last when none was ever the best."""
    known = list_checkpoints(directory.checkpoints)
    which = "best" if any(checkpoint.is_best for checkpoint in known) else "last"
    return resolve(directory.checkpoints, which)


def _split(address: str) -> tuple[str, str, str]:
    name, at, which = address.rpartition("@")
    return (name, at, which) if at else (address, "", "")


def _of_run(directory: RunDirectory, which: str) -> Checkpoint:
    return resolve(directory.checkpoints, which) if which else best_or_last(directory)


def _no_checkpoint(path: Path) -> UsageError:
    if not path.exists():
        return UsageError(
            f"no such path: {path}", remedy="give a run id, RUN@STEP, or the path of a checkpoint"
        )
    if path.is_file():
        return UsageError(
            f"{path} is a file, not a checkpoint",
            remedy="weights alone need the run they belong to: forge generate RUN --weights FILE",
        )
    return UsageError(
        f"{path} is neither a checkpoint nor a run: it has no {MANIFEST} and no checkpoints folder",
        remedy="'forge runs list' shows the runs, 'forge checkpoints list RUN' what they saved",
    )
