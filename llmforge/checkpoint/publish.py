"""Making a checkpoint valid in one step, so that a kill at any instant loses nothing.

Everything is written and forced to the disk in a hidden directory beside the target, the
manifest last; one rename makes it a checkpoint. The caller holds the run's lock, so whatever
hidden directory lies around is left over from a process that is gone.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from llmforge.checkpoint.format import (
    BEST,
    LAST,
    PINNED,
    Checkpoint,
    list_checkpoints,
    step_name,
    tensor_files,
    verify,
)
from llmforge.checkpoint.frozen_weights import FrozenWeights
from llmforge.checkpoint.hashed_files import FileEntry, write_file
from llmforge.checkpoint.manifest import (
    MANIFEST,
    Manifest,
    decode_manifest,
    encode_manifest,
    read_manifest,
)
from llmforge.checkpoint.rank_group import Crew, everyone, led
from llmforge.errors import CheckpointError
from llmforge.progress import size_text
from llmforge.rundir.atomic import DISK_FULL, sync_directory, write_text

_OLD = ".old-"
_NEW = ".tmp-"
_DELETED = ".del-"

_Entry = tuple[int, str]
"""Size and SHA-256 of a file, as one rank tells another."""

T = TypeVar("T")

FileWriter = Callable[[Path], FileEntry]
"""Writes the file it is given and returns its entry, the file forced to the disk."""


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A checkpoint about to be written: the manifest's facts, and a writer for each file."""

    step: int
    recipe_hash: str
    files: Mapping[str, FileWriter]
    world_size: int = 1
    parent: int | None = None
    is_best: bool = False
    frozen: FrozenWeights | None = None


def publish(directory: Path, *, draft: Draft, crew: Crew | None = None) -> Checkpoint:
    """Write ``draft`` below ``directory`` and return it as a valid checkpoint.

    With a ``crew`` each rank writes the files of its own ``draft``, and the leader makes one
    checkpoint of all of them, by the facts in its own.

    One that holds the same step already is replaced: it stays valid until the new one is
    complete. Of a sound one with the same weights the mark of the best is taken over, of any the
    pin; a damaged one is set aside.

    Raises:
        CheckpointError: the disk of a rank is full or does not take the files, or a rank is gone;
            nothing valid was touched and nothing partial is left.
    """
    target = directory / step_name(draft.step)
    told = partial(_told, directory, draft.step)
    with contextlib.ExitStack() as stack:
        begin = partial(stack.enter_context, _hidden(target))
        folder = directory / led(crew, lambda: told(begin))
        written = everyone(crew, lambda: told(lambda: _write_files(folder, draft.files)))
        manifest = led(crew, lambda: told(lambda: _complete(folder, target, draft, written)))
    return Checkpoint(draft.step, target, decode_manifest(manifest, target))


@contextlib.contextmanager
def _hidden(target: Path) -> Iterator[str]:
    """Make a directory beside ``target`` and yield its name; nothing is left of it in the end."""
    directory = target.parent
    temporary = directory / f"{_NEW}{target.name}-{os.getpid()}"
    directory.mkdir(parents=True, exist_ok=True)
    _remove(temporary)
    try:
        temporary.mkdir()
        yield temporary.name
    finally:
        if temporary.exists():
            # Another rank may be at it still: what it begins now must fail, not stay.
            doomed = directory / f"{_DELETED}{temporary.name}"
            shutil.rmtree(doomed, ignore_errors=True)
            with contextlib.suppress(OSError):  # it stays hidden, and the next start removes it
                temporary.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)


def _told(directory: Path, step: int, work: Callable[[], T]) -> T:
    """Do ``work``; what the disk does not take becomes an error for people."""
    try:
        return work()
    except OSError as error:
        raise _saving_error(directory, step, error) from error


def _complete(
    temporary: Path, target: Path, draft: Draft, written: Sequence[Mapping[str, _Entry]]
) -> str:
    """Make the checkpoint ``target`` of what the ranks have ``written``; return its manifest."""
    for rank, part in enumerate(written[1:], start=1):
        _require_arrived(temporary, rank, part)
    files = {name: FileEntry(*entry) for part in written for name, entry in part.items()}
    for folder in sorted({(temporary / name).parent for name in files} - {temporary}):
        sync_directory(folder)
    old = _Old.look_at(target)
    manifest = Manifest(
        step=draft.step,
        recipe_hash=draft.recipe_hash,
        world_size=draft.world_size,
        parent=draft.parent,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        is_best=draft.is_best or old.is_best_with(files),
        files=files,
        frozen=draft.frozen,
    )
    if old.pinned:
        (temporary / PINNED).touch()
    text = encode_manifest(manifest)
    write_file(temporary / MANIFEST, [text])
    sync_directory(temporary)
    _move_into_place(temporary, target, old)
    refresh_pointers(target.parent)
    return text.decode()


def _require_arrived(temporary: Path, rank: int, written: Mapping[str, _Entry]) -> None:
    for name, (size, _) in written.items():
        path = temporary / name
        if not path.is_file() or path.stat().st_size != size:
            raise CheckpointError(
                f"rank {rank} wrote {name}, and it is not there as written: {path}",
                remedy="the checkpoints directory must be on a file system that all nodes share",
            )


@dataclass(frozen=True)
class _Old:
    """What is at the target already; ``best_weights`` are the model's files of a sound best."""

    exists: bool = False
    sound: bool = False
    pinned: bool = False
    best_weights: Mapping[str, FileEntry] | None = None

    def is_best_with(self, files: Mapping[str, FileEntry]) -> bool:
        """Return whether ``files`` have the weights this one was the best with."""
        return self.best_weights is not None and _weights(files) == self.best_weights

    @classmethod
    def look_at(cls, target: Path) -> _Old:
        if not target.exists():
            return cls()
        pinned = (target / PINNED).exists()
        if verify(target):
            return cls(exists=True, pinned=pinned)
        manifest = read_manifest(target)
        weights = _weights(manifest.files) if manifest.is_best else None
        return cls(exists=True, sound=True, pinned=pinned, best_weights=weights)


def _write_files(temporary: Path, writers: Mapping[str, FileWriter]) -> dict[str, _Entry]:
    written = {}
    for name, write in writers.items():
        path = temporary / name
        if path.parent != temporary:
            path.parent.mkdir(parents=True, exist_ok=True)
        entry = write(path)
        written[name] = (entry.size, entry.sha256)
    return written


def _weights(files: Mapping[str, FileEntry]) -> dict[str, FileEntry]:
    return {name: files[name] for name in tensor_files(files, "model")}


def _move_into_place(temporary: Path, target: Path, old: _Old) -> None:
    if not old.exists:
        temporary.rename(target)
        sync_directory(target.parent)
        return
    if not old.sound:
        set_aside(target, "corrupt")
        temporary.rename(target)
        sync_directory(target.parent)
        return
    # Between these two renames the step has no checkpoint; recover() undoes the first.
    aside = target.with_name(f"{_OLD}{target.name}")
    _remove(aside)
    target.rename(aside)
    try:
        temporary.rename(target)
    except OSError:
        aside.rename(target)
        raise
    sync_directory(target.parent)
    _remove(aside)


def recover(directory: Path) -> None:
    """Finish or undo what a process that is gone left half done below ``directory``.

    Only for the process that holds the run's lock.
    """
    if not directory.is_dir():
        return
    for path in list(directory.iterdir()):
        if path.name.startswith(_OLD):
            target = path.with_name(path.name.removeprefix(_OLD))
            if target.exists():
                _remove(path)
            else:
                path.rename(target)
        elif path.name.startswith("."):
            _remove(path)
    sync_directory(directory)


def delete(checkpoint: Path) -> None:
    """Delete the directory ``checkpoint``, which is no checkpoint any more from the first instant.

    The rename comes first, so that what a kill leaves half deleted is never taken for a damaged
    checkpoint.
    """
    doomed = checkpoint.with_name(f"{_DELETED}{checkpoint.name}")
    _remove(doomed)
    checkpoint.rename(doomed)
    sync_directory(doomed.parent)
    _remove(doomed)


def set_aside(checkpoint: Path, reason: str) -> Path:
    """Rename ``checkpoint`` to ``<name>.<reason>-<n>``, where nothing reads it; return the path."""
    number = 1
    while (aside := checkpoint.with_name(f"{checkpoint.name}.{reason}-{number}")).exists():
        number += 1
    checkpoint.rename(aside)
    sync_directory(aside.parent)
    return aside


def refresh_pointers(directory: Path) -> None:
    """Let ``last`` and ``best`` name the newest checkpoint and the newest that was best."""
    checkpoints = list_checkpoints(directory)
    best = [checkpoint for checkpoint in checkpoints if checkpoint.is_best]
    for name, candidates in ((LAST, checkpoints), (BEST, best)):
        pointer = directory / name
        if not candidates:
            pointer.unlink(missing_ok=True)
            continue
        text = candidates[-1].path.name + "\n"
        if not pointer.exists() or pointer.read_text(encoding="utf-8") != text:
            write_text(pointer, text)


def preflight_space(directory: Path, bytes_needed: int) -> None:
    """Check that ``bytes_needed`` are free where ``directory`` lies or will lie.

    Raises:
        CheckpointError: they are not; the message has both numbers and what to do.
    """
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < bytes_needed:
        raise CheckpointError(
            f"not enough disk space for checkpoints in {directory}: {size_text(bytes_needed)} "
            f"are needed, {size_text(free)} are free",
            remedy=_SPACE_REMEDY,
        )


_SPACE_REMEDY = (
    "free some space, lower checkpoint.keep_last, or choose another disk with run.root; "
    "the checkpoints there already are untouched"
)


def _saving_error(directory: Path, step: int, error: OSError) -> CheckpointError:
    reason = error.strerror or str(error)
    if error.errno not in DISK_FULL:
        return CheckpointError(
            f"the checkpoint of step {step} could not be written to {directory}: {reason}",
            remedy="the checkpoints there already are untouched",
        )
    free = size_text(shutil.disk_usage(directory).free)
    return CheckpointError(
        f"no room for the checkpoint of step {step} in {directory}: {reason} ({free} free)",
        remedy=_SPACE_REMEDY,
    )


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
