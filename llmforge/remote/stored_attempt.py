"""One attempt of a run in storage: what is committed there, adding to it, bringing it back."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmforge.checkpoint.format import step_name
from llmforge.checkpoint.manifest import read_manifest
from llmforge.errors import StorageError
from llmforge.progress import track
from llmforge.remote.commits import Commit, encode_commit
from llmforge.remote.connection import Connections, Limiter
from llmforge.remote.fetch import fetch_checkpoint, fetch_run_files, verify_commit
from llmforge.remote.layout import (
    ATTEMPT,
    COMMIT,
    COMPLETION,
    RUN_FILES,
    attempt_folder,
    attempt_number,
    is_safe,
    step_number,
)
from llmforge.remote.transfer import arrived, create, for_each, read, send, source_of
from llmforge.remote.upload import Job, OnState, Upload, clear_token, read_commit
from llmforge.rundir.completion import Completion, decode_completion

UPLOADS = "uploads"
"""Folder of a run directory for the state of uploads and what they make on the way."""


class RemoteRun:
    """Attempt ``attempt`` of the run ``run_id`` below ``url``. Nothing is asked until it is used.

    Every call to storage is given up when nothing moves for ``stall_seconds`` and tried a few
    times; what then fails raises :class:`~llmforge.errors.StorageError`. Safe for threads.

    Args:
        url: the storage's URL.
        options: the storage component's option table.
        run_id: the run.
        attempt: its fresh start, from 1.
        stall_seconds: how long a call may move nothing.
        concurrency: files moved together.
        limiter: the bandwidth that uploads share; None for all there is.
    """

    def __init__(
        self,
        url: str,
        options: Mapping[str, Any] | None,
        run_id: str,
        attempt: int,
        *,
        stall_seconds: float = 60.0,
        concurrency: int = 4,
        limiter: Limiter | None = None,
    ) -> None:
        connections = Connections(url, options, stall_seconds=stall_seconds, limiter=limiter)
        self._set(connections, run_id, attempt, concurrency)

    def _set(self, connections: Connections, run_id: str, attempt: int, concurrency: int) -> None:
        if not is_safe(run_id) or "/" in run_id:
            raise StorageError(f"'{run_id}' is not a valid folder name in storage")
        self.run_id = run_id
        self.attempt = attempt
        self._folder = attempt_folder(run_id, attempt)
        self._concurrency = concurrency
        self._connections = connections

    @classmethod
    def over(
        cls, connections: Connections, run_id: str, attempt: int, *, concurrency: int = 4
    ) -> RemoteRun:
        """Return the run over connections that exist."""
        run = cls.__new__(cls)
        run._set(connections, run_id, attempt, concurrency)
        return run

    def other(self, attempt: int) -> RemoteRun:
        """Return another attempt of this run, over the same connections."""
        return self.over(self._connections, self.run_id, attempt, concurrency=self._concurrency)

    @property
    def url(self) -> str:
        """Address of this attempt, without credentials."""
        return f"{self._connections.url}/{self._folder}"

    def attempts(self) -> list[int]:
        """Return the attempts of this run that are in storage, in order."""
        folders = self._connections.call(
            f"listing {self.run_id}", lambda storage, _: storage.folders(self.run_id)
        )
        found = (attempt_number(folder) for folder in folders)
        return sorted(number for number in found if number is not None)

    def begin(self, facts: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Write down, once, who began this attempt; return what stands there.

        Args:
            facts: what to add to run id, attempt, host and time; an ``identity``, for example.
        """
        name = f"{self._folder}/{ATTEMPT}"
        body = {
            **(facts or {}),
            "run_id": self.run_id,
            "attempt": self.attempt,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "began": time.time(),
        }
        content = (json.dumps(body, indent=1) + "\n").encode()
        create(self._connections, name, content)
        there = self._read_json(ATTEMPT)
        if there is None:
            raise StorageError(f"{self.url}/{ATTEMPT} was written and is not there")
        return there

    def steps(self) -> list[int]:
        """Return the steps that have a folder in storage, committed or not."""
        folder = f"{self._folder}/checkpoints"
        folders = self._connections.call(
            f"listing {folder}", lambda storage, _: storage.folders(folder)
        )
        return sorted(step for name in folders if (step := step_number(name)) is not None)

    def commit(self, step: int) -> Commit | None:
        """Return the commit of ``step``, None when there is no such checkpoint.

        Raises:
            StorageError: its COMMIT cannot be trusted.
        """
        return read_commit(self._connections, self._step_folder(step))

    def commits(self) -> list[Commit]:
        """Return every checkpoint in storage, in order of steps.

        Raises:
            StorageError: a COMMIT cannot be trusted.
        """
        found = for_each(
            ((step, None) for step in self.steps()),
            lambda step, _: self.commit(step),
            concurrency=self._concurrency,
        )
        return [commit for commit in found if commit is not None]

    def upload(
        self,
        checkpoint: Path,
        *,
        token: str,
        archive: str = "none",
        run_files: Mapping[str, Path] | None = None,
        on_state: OnState = lambda *_: None,
        staging: Path | None = None,
    ) -> Commit:
        """Upload the local ``checkpoint``, verify it there and commit it; once done, do nothing.

        Files that an earlier try with the same ``token`` brought there are not sent again. What
        is made on the way is in ``staging`` and is gone in the end, archives after every try.

        Args:
            checkpoint: the local directory; it is verified, never changed.
            token: this upload's own folder, written down by the caller before the first try.
            archive: ``none``, ``tar.gz`` or ``tar.zst``.
            run_files: files of the run as they are now, kept with the checkpoint by these names.
            on_state: told state, bytes done and bytes in all; it may raise ``Cancelled``.
            staging: absent: ``uploads/<token>`` in the run's directory.

        Raises:
            CheckpointError: the local checkpoint is gone or damaged.
            CommitConflict: storage has another checkpoint of this step.
            StorageError: not all of it is there; nothing is committed. Try again.
        """
        step = read_manifest(checkpoint).step
        job = Job(
            checkpoint=checkpoint,
            folder=self._step_folder(step),
            token=token,
            archive=archive,
            run_files=run_files or {},
            staging=staging or checkpoint.absolute().parent.parent / UPLOADS / token,
        )
        upload = Upload(self._connections, job, concurrency=self._concurrency, on_state=on_state)
        return upload.run()

    def discard(self, step: int, token: str) -> None:
        """Delete what the upload ``token`` of ``step`` left, unless it is what was committed."""
        commit = self.commit(step)
        if commit is None or commit.token != token:
            clear_token(self._connections, self._step_folder(step), token)

    def supersede(self, *, after: int) -> list[int]:
        """Withdraw the completion and every commit after step ``after``; return those steps.

        For a run that deliberately goes back.
        """
        self._delete(f"{self._folder}/{COMPLETION}")
        withdrawn = [commit for commit in self.commits() if commit.step > after]
        for commit in withdrawn:
            self.withdraw(commit)
        return [commit.step for commit in withdrawn]

    def withdraw(self, commit: Commit) -> None:
        """Let ``commit`` no longer exist as a checkpoint.

        What was committed stays, under the COMMIT's content in ``SUPERSEDED-<token>.json``.
        """
        folder = self._step_folder(commit.step)
        aside = f"{folder}/SUPERSEDED-{commit.token}.json"
        create(self._connections, aside, encode_commit(commit))
        self._delete(f"{folder}/{COMMIT}")

    def verify(self, commit: Commit, *, deep: bool = False) -> list[str]:
        """Return what is wrong with ``commit``: sizes, and with ``deep`` every content."""
        folder = self._step_folder(commit.step)
        return verify_commit(
            self._connections, folder, commit, deep=deep, concurrency=self._concurrency
        )

    def fetch(self, commit: Commit, target: Path) -> None:
        """Download ``commit`` into the new checkpoint directory ``target``, whole or not at all.

        Raises:
            StorageError: it is not what was committed, or the disk does not take it.
        """
        folder = self._step_folder(commit.step)
        mine = (
            entry.size
            for name, entry in commit.objects.items()
            if not name.startswith(f"{RUN_FILES}/")
        )
        with track(f"fetching step {commit.step}", total=sum(mine)) as task:
            fetch_checkpoint(
                self._connections,
                folder,
                commit,
                target,
                concurrency=self._concurrency,
                moved=task.advance,
            )

    def fetch_run_files(self, commit: Commit, into: Path) -> list[str]:
        """Download the run's files that belong to ``commit`` into ``into``; return their names."""
        folder = self._step_folder(commit.step)
        return fetch_run_files(
            self._connections, folder, commit, into, concurrency=self._concurrency
        )

    def mirror(self, files: Mapping[str, Path]) -> None:
        """Put ``files`` there by these names, replacing what is there, in the order given.

        Each is copied first, so that one that is being written arrives as it was at one moment;
        one that is not there is left out.

        Raises:
            StorageError: one did not arrive; those before it did.
        """
        with tempfile.TemporaryDirectory(prefix="forge-mirror-") as folder:
            for name, path in files.items():
                copy = Path(folder) / "copy"
                try:
                    shutil.copyfile(path, copy)
                except FileNotFoundError:
                    continue
                except OSError as error:
                    raise StorageError(
                        f"{path} cannot be mirrored: {error.strerror or error}"
                    ) from error
                source, stored = source_of(copy), f"{self._folder}/{name}"
                send(self._connections, source, stored)
                if not arrived(self._connections, source, stored):
                    raise StorageError(f"{self.url}/{name} is not what was sent")

    def names(self) -> list[str]:
        """Return the names of all mirrored files: everything but checkpoints."""
        found = self._connections.call(
            f"listing {self._folder}", lambda storage, _: storage.names(self._folder)
        )
        names = (name.removeprefix(f"{self._folder}/") for name in found)
        return sorted(name for name in names if not name.startswith("checkpoints/"))

    def read_file(self, name: str) -> bytes | None:
        """Return the content of the mirrored file ``name``, None when it is not there."""
        return read(self._connections, f"{self._folder}/{name}")

    def record(self) -> dict[str, Any] | None:
        """Return the mirrored ``run.json``, None when there is none."""
        return self._read_json("run.json")

    def completion(self) -> Completion | None:
        """Return the run's completion, None when it is not done.

        Raises:
            StorageError: the record is damaged.
        """
        content = self.read_file(COMPLETION)
        try:
            return None if content is None else decode_completion(content)
        except ValueError as error:
            raise StorageError(f"{self.url}/{COMPLETION} is damaged: {error}") from error

    def _delete(self, name: str) -> None:
        self._connections.call(f"deleting {name}", lambda storage, _: storage.delete(name))

    def _read_json(self, name: str) -> dict[str, Any] | None:
        content = self.read_file(name)
        if content is None:
            return None
        try:
            body = json.loads(content)
        except ValueError as error:
            raise StorageError(f"{self.url}/{name} is damaged: {error}") from error
        if not isinstance(body, dict):
            raise StorageError(f"{self.url}/{name} is damaged: not a JSON object")
        return body

    def _step_folder(self, step: int) -> str:
        return f"{self._folder}/checkpoints/{step_name(step)}"
