"""The storage side of a courier: checkpoints and small files of one run, on their way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from llmforge.courier.checkpoint_uploads import Uploader
from llmforge.courier.small_files import Mirror
from llmforge.recipe import Recipe
from llmforge.remote import RemoteRun
from llmforge.rundir import RunDirectory
from llmforge.rundir.uploads import UploadRecord


@dataclass(frozen=True, kw_only=True)
class UploadSummary:
    """The result of uploads.

    Attributes:
        committed: steps that were committed since the start.
        pending: steps that are not in storage.
        mirrored: whether all small files of the run are there.
        url: the run's place.
    """

    committed: list[int]
    pending: list[int]
    mirrored: bool
    url: str


class Uploads:
    """Uploads and mirrors one run until it is asked to finish.

    Args:
        directory: the run.
        remote: its place in storage.
        recipe: says how; its ``[storage]``.
        on_change: told a record whenever an upload's state changes.
        on_error: told what else went wrong.
    """

    def __init__(
        self,
        directory: RunDirectory,
        remote: RemoteRun,
        *,
        recipe: Recipe,
        on_change: Callable[[UploadRecord], None],
        on_error: Callable[[str], None],
    ) -> None:
        self._remote = remote
        self._committed: list[int] = []
        self._tell = on_change
        self._uploader = Uploader(
            directory,
            remote,
            archive=recipe.storage.archive,
            on_change=self._changed,
            on_error=on_error,
        )
        self._mirror = Mirror(directory, remote, on_error=on_error)
        self._stop = threading.Event()

    def start(self) -> None:
        """Begin."""
        self._uploader.start()
        self._mirror.start()

    def finish(self, seconds: float) -> UploadSummary:
        """Let the rest arrive for at most ``seconds``; :meth:`stop` ends the waiting early."""
        deadline = time.monotonic() + seconds
        self._uploader.close()
        self._mirror.hurry()
        if self._uploader.ident is not None:  # it was started
            self._await(self._uploader, deadline)
            self._mirror.close()
            self._await(self._mirror, deadline)
        return UploadSummary(
            committed=self._committed,
            pending=self._uploader.pending(),
            mirrored=self._mirror.complete,
            url=self._remote.url,
        )

    def stop(self) -> None:
        """Wait no longer."""
        self._stop.set()

    def _await(self, thread: threading.Thread, deadline: float) -> None:
        while thread.is_alive() and time.monotonic() < deadline and not self._stop.is_set():
            thread.join(0.1)

    def _changed(self, record: UploadRecord) -> None:
        if record.state == "committed" and not record.cleaned:
            self._committed.append(record.step)
        self._tell(record)
