"""Choosing the checkpoint to resume from, and finding one by its address."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from llmforge.checkpoint.format import (
    Checkpoint,
    open_checkpoint,
    step_directories,
    step_name,
    verify,
)
from llmforge.checkpoint.manifest import NewerFormatError, read_manifest
from llmforge.checkpoint.publish import recover, refresh_pointers, set_aside
from llmforge.errors import CheckpointError
from llmforge.run_root import root_option

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Restored:
    """The checkpoint to resume from; ``warnings`` has a line for each newer one set aside."""

    checkpoint: Checkpoint
    warnings: tuple[str, ...] = ()


def newest_valid(directory: Path) -> Restored | None:
    """Return the newest checkpoint that verifies, or None when there never was one.

    Newer ones that are damaged are renamed to ``step-….corrupt-<n>``, with one warning each.
    Only for the process that holds the run's lock.

    Raises:
        NewerFormatError: the newest was written by a later version of llmforge.
        CheckpointError: there are checkpoints and none is sound; nothing was renamed.
    """
    recover(directory)
    damaged: list[tuple[Path, list[str]]] = []
    for _, path in reversed(step_directories(directory)):
        wrong = verify(path)
        if not wrong:
            warnings = tuple(_set_aside_damaged(*item, instead=path) for item in damaged)
            refresh_pointers(directory)
            return Restored(open_checkpoint(path), warnings)
        _refuse_newer_format(path)
        damaged.append((path, wrong))
    _refuse_to_start_over(directory, damaged)
    return None


def resolve(directory: Path, which: str | int) -> Checkpoint:
    """Return the checkpoint ``best``, ``last`` or of a step; changes nothing on disk.

    Manifest and file sizes are checked here, contents where they are read
    (:func:`~llmforge.checkpoint.format.load_tensors`).

    Raises:
        CheckpointError: there is none, or it is damaged; the message names those there are.
    """
    known = step_directories(directory)
    if not known:
        raise CheckpointError(
            f"{directory} holds no checkpoint",
            remedy="the first one is written after checkpoint.every steps, or when the run ends",
        )
    path = _newest_best(known) if which == "best" else known[-1][1]
    if which not in ("best", "last"):
        path = _of_step(directory, which, known)
    if wrong := verify(path, hashes=False):
        raise CheckpointError(f"{path} is damaged: {'; '.join(wrong)}", remedy=_others(known, path))
    return open_checkpoint(path)


def rewind(directory: Path, step: int) -> list[Path]:
    """Set aside every checkpoint after ``step``, so that training resumes from there.

    They are renamed to ``step-….superseded-<n>`` and returned. Only for the process that holds
    the run's lock.
    """
    newer = [path for number, path in step_directories(directory) if number > step]
    aside = [set_aside(path, "superseded") for path in newer]
    refresh_pointers(directory)
    return aside


def _set_aside_damaged(path: Path, wrong: list[str], *, instead: Path) -> str:
    aside = set_aside(path, "corrupt")
    warning = (
        f"checkpoint {path.name} is damaged ({'; '.join(wrong)}); "
        f"set aside as {aside.name}, resuming from {instead.name}"
    )
    _log.warning(warning)
    return warning


def _refuse_newer_format(path: Path) -> None:
    try:
        read_manifest(path)
    except NewerFormatError:
        raise
    except CheckpointError:
        return


def _refuse_to_start_over(directory: Path, damaged: list[tuple[Path, list[str]]]) -> None:
    run = directory.absolute().parent
    found = [f"{path.name}: {'; '.join(wrong)}" for path, wrong in damaged]
    if directory.is_dir():
        found += [f"{path.name}: set aside before" for path in directory.glob("step-*.corrupt-*")]
    if found:
        raise CheckpointError(
            "\n  ".join([f"no checkpoint in {directory} is sound; not starting over", *found]),
            remedy="put a sound copy back there, or train from the beginning, keeping these files "
            f"aside: forge runs clear {run.name}{root_option(run.parent)}",
        )


def _newest_best(known: list[tuple[int, Path]]) -> Path:
    # An unreadable manifest ends the search: behind it might be the best.
    for _, path in reversed(known):
        if read_manifest(path).is_best:
            return path
    raise CheckpointError(
        f"{known[-1][1].parent} holds no best checkpoint: no evaluation came before one",
        remedy=_others(known, None),
    )


def _of_step(directory: Path, which: str | int, known: list[tuple[int, Path]]) -> Path:
    if isinstance(which, str) and not which.isdecimal():
        raise CheckpointError(
            f"'{which}' is not a checkpoint: write best, last or a step",
            remedy=_others(known, None),
        )
    path = directory / step_name(int(which))
    if not path.is_dir():
        raise CheckpointError(
            f"{directory} holds no checkpoint of step {int(which)}", remedy=_others(known, None)
        )
    return path


def _others(known: list[tuple[int, Path]], without: Path | None) -> str:
    others = [(step, path) for step, path in known if path != without]
    sound = [str(step) for step, path in others if not verify(path, hashes=False)]
    if sound:
        return f"steps there: {', '.join(sound)}"
    return "all others are damaged, too" if others else "there is no other checkpoint"
