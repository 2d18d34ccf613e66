"""Saving without waiting: a copy at the step boundary, everything else on a thread."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from llmforge.checkpoint.files import FileEntry, read_chunks, write_file
from llmforge.checkpoint.format import METADATA, RECIPE, TOKENIZER, TRAINER, tensor_file
from llmforge.checkpoint.publish import Draft, FileWriter, preflight_space, publish, recover
from llmforge.checkpoint.retention import Retention, apply_retention
from llmforge.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

    from llmforge.checkpoint.tensors import HostBuffer

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SelfDescription:
    """What is the same in every checkpoint of a run, so that each can be used without the run.

    Attributes:
        recipe: the resolved recipe as TOML.
        recipe_hash: its identity.
        tokenizer: directory whose files are copied into each checkpoint, or None.
        world_size: number of processes that train.
    """

    recipe: str
    recipe_hash: str
    tokenizer: Path | None = None
    world_size: int = 1


@dataclass(frozen=True, kw_only=True)
class SaveRequest:
    """What to save at a step boundary.

    Attributes:
        step: optimizer steps taken.
        model: live weights by name.
        optimizer: live optimizer tensors by name.
        trainer: JSON-serialisable state of everything else.
        metadata: JSON-serialisable facts for people. Both are encoded on the calling thread.
        is_best: the evaluation at this step was the best so far.
        required: wait for room rather than skip; the best always does.
    """

    step: int
    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    trainer: Mapping[str, Any]
    metadata: Mapping[str, Any]
    is_best: bool = False
    required: bool = False


@dataclass(frozen=True, kw_only=True)
class SavedCheckpoint:
    """A checkpoint that has become valid; ``seconds`` from the snapshot to the last rename."""

    step: int
    path: Path
    size: int
    is_best: bool
    seconds: float


class _Snapshot:
    """The memory one checkpoint waits in, with what else belongs to it."""

    def __init__(self) -> None:
        from llmforge.checkpoint.tensors import HostBuffer

        self.model: HostBuffer = HostBuffer()
        self.optimizer: HostBuffer = HostBuffer()
        self.step = 0
        self.is_best = False
        self.taken = 0.0
        self.texts: dict[str, bytes] = {}

    def take(self, request: SaveRequest) -> None:
        self.step = request.step
        self.is_best = request.is_best
        self.taken = time.monotonic()
        self.texts = {
            TRAINER: _encode("trainer state", request.trainer),
            METADATA: _encode("metadata", request.metadata),
        }
        self.model.copy_from(request.model)
        self.optimizer.copy_from(request.optimizer)

    @property
    def nbytes(self) -> int:
        texts = sum(len(text) for text in self.texts.values())
        return self.model.nbytes + self.optimizer.nbytes + texts


class CheckpointWriter:
    """Writes the checkpoints of a run behind its back; for the process that holds the run's lock.

    One checkpoint is written at a time and one more waits in memory. An error of the thread is
    raised by the next :meth:`submit`, :meth:`flush` or :meth:`close`, once.

    Args:
        directory: the run's ``checkpoints`` directory.
        description: what every checkpoint holds of the run.
        retention: how many checkpoints stay.
        on_saved: called on the thread after each checkpoint has become valid.
        protected: returns the steps that must not be deleted yet, such as uploads under way.
        elsewhere: returns the steps that are safe in another place and need not stay here.
        parent: step of the checkpoint the run goes on from.
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
    ) -> None:
        self._directory = directory
        self._description = description
        self._retention = retention
        self._on_saved = on_saved
        self._protected = protected
        self._elsewhere = elsewhere
        self._parent = parent
        self._changed = threading.Condition()
        self._idle: list[_Snapshot] = []
        self._waiting: _Snapshot | None = None
        self._writing: _Snapshot | None = None
        self._error: CheckpointError | None = None
        self._closing = False
        recover(directory)
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
            _log.error("%s", failure)  # What ended the block matters more.

    def prepare(self, model: Mapping[str, Tensor], optimizer: Mapping[str, Tensor]) -> None:
        """Allocate and touch the memory of the first snapshot, so that it blocks no longer than
        later ones."""
        with self._changed:
            if not self._idle:
                self._idle.append(_Snapshot())
            snapshot = self._idle[0]
        snapshot.model.prepare(model)
        snapshot.optimizer.prepare(optimizer)

    def submit(self, request: SaveRequest) -> bool:
        """Copy the state and return; the thread saves it.

        Returns:
            False when one checkpoint is being written, one waits and this one is not required:
            it is skipped and logged.

        Raises:
            CheckpointError: an earlier checkpoint failed, or this one cannot be encoded.
        """
        with self._changed:
            self._raise_error()
            if self._waiting is not None:
                if not (request.required or request.is_best):
                    _log.warning(
                        "checkpoint of step %d skipped: the disk is still busy with step %d",
                        request.step,
                        (self._writing or self._waiting).step,
                    )
                    return False
                self._changed.wait_for(lambda: self._waiting is None)
                self._raise_error()
            snapshot = self._idle.pop() if self._idle else _Snapshot()
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
                    f"after {timeout:g} s not on the disk: checkpoint of step {', '.join(late)}",
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

    def _next(self) -> _Snapshot | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting is not None or self._closing)
            self._writing, self._waiting = self._waiting, None
            self._changed.notify_all()
            return self._writing

    def _save(self, snapshot: _Snapshot) -> None:
        preflight_space(self._directory, snapshot.nbytes)
        checkpoint = publish(
            self._directory,
            draft=Draft(
                step=snapshot.step,
                recipe_hash=self._description.recipe_hash,
                world_size=self._description.world_size,
                parent=self._parent,
                is_best=snapshot.is_best,
                files=self._files(snapshot),
            ),
        )
        self._parent = checkpoint.step
        self._on_saved(
            SavedCheckpoint(
                step=checkpoint.step,
                path=checkpoint.path,
                size=checkpoint.manifest.size,
                is_best=checkpoint.is_best,
                seconds=time.monotonic() - snapshot.taken,
            )
        )
        apply_retention(
            self._directory,
            retention=self._retention,
            protected=self._protected(),
            elsewhere=self._elsewhere(),
        )

    def _files(self, snapshot: _Snapshot) -> dict[str, FileWriter]:
        files: dict[str, FileWriter] = {
            RECIPE: _writes(self._description.recipe.encode()),
            **{name: _writes(text) for name, text in snapshot.texts.items()},
            tensor_file("model"): snapshot.model.write,
            tensor_file("optimizer"): snapshot.optimizer.write,
        }
        tokenizer = self._description.tokenizer
        if tokenizer is not None:
            for path in sorted(tokenizer.rglob("*")):
                if path.is_file():
                    name = f"{TOKENIZER}/{path.relative_to(tokenizer).as_posix()}"
                    files[name] = partial(_copy, path)
        return files


def _writes(content: bytes) -> FileWriter:
    return lambda path: write_file(path, [content])


def _copy(source: Path, path: Path) -> FileEntry:
    return write_file(path, read_chunks(source))


def _encode(what: str, value: Mapping[str, Any]) -> bytes:
    """Return ``value`` as JSON, a line for each key: readable, and encoded by the C encoder."""
    try:
        lines = [f" {json.dumps(key)}: {json.dumps(item)}" for key, item in value.items()]
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"the {what} cannot be written as JSON: {error}") from error
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()
