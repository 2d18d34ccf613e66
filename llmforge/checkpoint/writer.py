"""Saving without waiting: a copy at the step boundary, everything else on a thread."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from llmforge.checkpoint.publish import Draft, publish, recover
from llmforge.checkpoint.rank_files import SelfDescription, contents
from llmforge.checkpoint.rank_group import LEADER, Crew, led
from llmforge.checkpoint.retention import Retention, apply_retention
from llmforge.checkpoint.shared_directory import check_shared
from llmforge.checkpoint.snapshot import SaveRequest, Snapshot
from llmforge.errors import CheckpointError, RankLost

if TYPE_CHECKING:
    from torch import Tensor

    from llmforge.interfaces import Slice

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SavedCheckpoint:
    """A checkpoint that has become valid; ``seconds`` from the snapshot to the last rename."""

    step: int
    path: Path
    size: int
    is_best: bool
    seconds: float


class Readiness(IntEnum):
    """How a rank's writer stands; the greatest of all ranks decides for every one."""

    READY = 0
    BUSY = 1
    FAILED = 2


class CheckpointWriter:
    """Writes the checkpoints of a run behind its back; for the process that holds the run's lock.

    One checkpoint is written at a time and one more waits in memory. An error of the thread is
    raised by the next :meth:`submit`, :meth:`flush` or :meth:`close`, once.

    With a ``crew`` every rank of the run has a writer, and all call the same methods at the same
    steps. Each writes the slices it holds; what else there is of it, and all that is done besides
    writing, is the leader's. An error of one is an error of all.

    Args:
        directory: the run's ``checkpoints`` directory.
        description: what every checkpoint holds of the run.
        retention: how many checkpoints stay.
        on_saved: called on the thread after each checkpoint has become valid.
        protected: returns the steps that must not be deleted yet, such as uploads under way.
        elsewhere: returns the steps that are safe in another place and need not stay here.
        parent: step of the checkpoint the run resumes from.
        crew: how this writer reaches those of the other ranks; None for a run of one process.
        agree: returns the greatest of the numbers that all ranks give it. Asked by every
            :meth:`submit`, on its thread, so that all skip a checkpoint, or raise, or none does.
    """

    def __init__(
        self,
        directory: Path,
        *,
        description: SelfDescription,
        retention: Retention,
        on_saved: Callable[[SavedCheckpoint], None],
        protected: Callable[[], Collection[int]] = tuple,
        elsewhere: Callable[[], Collection[int]] = tuple,
        parent: int | None = None,
        crew: Crew | None = None,
        agree: Callable[[int], int] = int,
    ) -> None:
        self._directory = directory
        self._description = description
        self._retention = retention
        self._on_saved = on_saved
        self._protected = protected
        self._elsewhere = elsewhere
        self._parent = parent
        self._crew = crew
        self._agree = agree
        self._leads = crew is None or crew.rank == LEADER
        self._changed = threading.Condition()
        self._idle: list[Snapshot] = []
        self._waiting: Snapshot | None = None
        self._writing: Snapshot | None = None
        self._error: CheckpointError | None = None
        self._closing = False
        if self._leads:
            recover(directory)
        if crew is not None:
            check_shared(directory, crew)
        self._thread = threading.Thread(target=self._run, name="checkpoint-writer", daemon=True)
        self._thread.start()

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except CheckpointError as failure:
            if error is None:
                raise
            # What ended the block matters more, and is the same when a rank was lost.
            level = logging.DEBUG if isinstance(failure, RankLost) else logging.ERROR
            _log.log(level, "%s", failure)

    def prepare(
        self,
        model: Mapping[str, Tensor],
        optimizer: Mapping[str, Tensor],
        slices: Mapping[str, Slice] | None = None,
    ) -> None:
        """Allocate and touch the memory of the first snapshot, so that it blocks no longer than
        later ones."""
        with self._changed:
            if not self._idle:
                self._idle.append(Snapshot(leader=self._leads))
            snapshot = self._idle[0]
        snapshot.prepare(model, optimizer, slices or {})

    def submit(self, request: SaveRequest) -> bool:
        """Copy the state and return; the thread saves it.

        Returns:
            False when one checkpoint is being written, one waits and this one is not required:
            it is skipped and logged.

        Raises:
            CheckpointError: an earlier checkpoint failed, or this one cannot be encoded.
        """
        while (readiness := self._agree(self._readiness())) != Readiness.READY:
            if readiness == Readiness.FAILED:
                self._raise_failure()
            if not (request.required or request.is_best):
                self._tell_skipped(request.step)
                return False
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is None)
        with self._changed:
            snapshot = self._idle.pop() if self._idle else Snapshot(leader=self._leads)
        try:
            snapshot.take(request)
        except BaseException:
            with self._changed:
                self._idle.append(snapshot)
            raise
        with self._changed:
            self._waiting = snapshot
            self._changed.notify_all()
        return True

    def flush(self, timeout: float | None = None) -> None:
        """Wait until everything submitted is on the disk.

        Raises:
            CheckpointError: a checkpoint failed, or ``timeout`` seconds have passed.
        """
        with self._changed:
            done = self._changed.wait_for(self._is_idle, timeout)
            self._raise_error()
            if not done:
                late = [str(item.step) for item in (self._writing, self._waiting) if item]
                raise CheckpointError(
                    f"the checkpoint of step {', '.join(late)} was not on disk after {timeout:g} s",
                    remedy="the disk is slow or hangs; earlier checkpoints are untouched",
                )

    def close(self, timeout: float | None = None) -> None:
        """Flush, then end the thread and free the memory; a second call does nothing.

        Raises:
            CheckpointError: as :meth:`flush`.
        """
        try:
            self.flush(timeout)
        finally:
            with self._changed:
                self._closing = True
                self._changed.notify_all()
            if self._is_idle():
                self._thread.join()
                self._idle.clear()

    def _readiness(self) -> Readiness:
        with self._changed:
            if self._error is not None:
                return Readiness.FAILED
            return Readiness.READY if self._waiting is None else Readiness.BUSY

    def _tell_skipped(self, step: int) -> None:
        if self._leads:
            busy = self._writing or self._waiting
            what = f"step {busy.step}" if busy else "an earlier one on another rank"
            _log.warning(
                "checkpoint of step %d skipped: the disk is still busy with %s", step, what
            )

    def _raise_failure(self) -> None:
        """Raise what a rank's writer failed with, once it is known here."""
        with self._changed:
            self._changed.wait_for(lambda: self._error is not None or self._is_idle())
            self._raise_error()
        raise CheckpointError("a checkpoint failed on another rank; its own message says why")

    def _is_idle(self) -> bool:
        return self._waiting is None and self._writing is None

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _run(self) -> None:
        while (snapshot := self._next()) is not None:
            error: CheckpointError | None = None
            try:
                self._save(snapshot)
            except CheckpointError as caught:
                error = caught
            except Exception as caught:
                error = CheckpointError(
                    f"saving the checkpoint of step {snapshot.step} failed: {caught!r}"
                )
                error.__cause__ = caught
            with self._changed:
                self._error = self._error or error
                self._writing = None
                self._idle.append(snapshot)
                self._changed.notify_all()

    def _next(self) -> Snapshot | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting is not None or self._closing)
            self._writing, self._waiting = self._waiting, None
            self._changed.notify_all()
            return self._writing

    def _save(self, snapshot: Snapshot) -> None:
        files = contents(snapshot, self._description, directory=self._directory, crew=self._crew)
        checkpoint = publish(
            self._directory,
            draft=Draft(
                step=snapshot.step,
                recipe_hash=self._description.recipe_hash,
                world_size=self._description.world_size,
                parent=self._parent,
                is_best=snapshot.is_best,
                files=files,
                frozen=self._description.frozen,
            ),
            crew=self._crew,
        )
        self._parent = checkpoint.step
        saved = SavedCheckpoint(
            step=checkpoint.step,
            path=checkpoint.path,
            size=checkpoint.manifest.size,
            is_best=checkpoint.is_best,
            seconds=time.monotonic() - snapshot.taken,
        )
        led(self._crew, lambda: self._settle(saved))

    def _settle(self, saved: SavedCheckpoint) -> None:
        """Tell of a valid checkpoint, and delete what need not stay beside it."""
        self._on_saved(saved)
        apply_retention(
            self._directory,
            retention=self._retention,
            protected=self._protected(),
            elsewhere=self._elsewhere(),
        )
