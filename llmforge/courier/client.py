"""The training process's side of the courier: start it, hear from it, close it in bounded time."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llmforge.errors import PluginError, Problem
from llmforge.rundir.layout import RunDirectory
from llmforge.rundir.uploads import UploadRecord

READY_SECONDS = 60.0
STORAGE = "storage"
"""What a failure of storage is called among those of the trackers."""
_ANSWER_SECONDS = 2.0


class Courier:
    """A running courier process.

    Args:
        directory: the run; its ``recipe.toml`` must be written already.
        on_error: told (tracker, message) when a tracker or ``storage`` fails.
        on_upload: told an upload whenever its state changes. Both are called from another thread.
        only: drive these trackers; the ones the recipe selects when empty.

    Attributes:
        notices: what the trackers want the user to know before step 0, once they are ready.
    """

    def __init__(
        self,
        directory: RunDirectory,
        *,
        on_error: Callable[[str, str], None],
        on_upload: Callable[[UploadRecord], None] = lambda _: None,
        only: Sequence[str] = (),
    ) -> None:
        self.notices: Sequence[str] = ()
        self._on_error = on_error
        self._on_upload = on_upload
        self._uploads: queue.Queue[dict[str, Any]] = queue.Queue()
        self._ready: queue.Queue[dict[str, Any]] = queue.Queue()
        self._closed: queue.Queue[dict[str, Any]] = queue.Queue()
        self._stderr_path = directory.trackers / "courier.log"
        directory.trackers.mkdir(parents=True, exist_ok=True)
        with self._stderr_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "llmforge.courier", str(directory.path.absolute()), *only],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        self._reader = threading.Thread(target=self._read, name="forge-courier", daemon=True)
        self._reader.start()

    def problems(self) -> list[Problem]:
        """Wait until the trackers have answered their preflight and return what is wrong.

        Raises:
            PluginError: the courier died or did not answer in time.
        """
        try:
            answer = self._ready.get(timeout=READY_SECONDS)
        except queue.Empty:
            raise PluginError(
                f"the trackers did not get ready within {READY_SECONDS:.0f} s",
                remedy=f"see {self._stderr_path}",
            ) from None
        if "died" in answer:
            raise PluginError(
                f"the courier process ended with code {answer['died']} before the run began",
                remedy=f"see {self._stderr_path}",
            )
        self.notices = answer.get("notices", ())
        return [Problem(**problem) for problem in answer["problems"]]

    def begin_uploads(self) -> None:
        """Let uploads begin: it is settled which checkpoints the run goes on with."""
        with contextlib.suppress(OSError):  # it is gone, and whoever asks next is told so
            self._ask(begin_uploads=1)

    def finish_uploads(self, seconds: float) -> Mapping[str, Any] | None:
        """Let uploads arrive for at most ``seconds``.

        Returns:
            What :class:`~llmforge.courier.uploads.UploadSummary` holds; None when the courier
            could not say.
        """
        try:
            self._ask(finish_uploads=seconds)
            answer = self._uploads.get(timeout=seconds + _ANSWER_SECONDS)
        except (OSError, queue.Empty):
            return None
        found: Mapping[str, Any] | None = answer.get("uploads")
        return found

    def close(self, seconds: float) -> Mapping[str, Mapping[str, Any]] | None:
        """Let the trackers deliver the rest, then end the process, killing it if need be.

        Args:
            seconds: the bound on the whole call, within a second or two.

        Returns:
            Per tracker, how many events were ``delivered``, how many are ``pending``, and a
            ``link`` to where they can be seen; None when the courier could not say.
        """
        result: dict[str, Any] | None = None
        try:
            self._ask(close=seconds)
            result = self._closed.get(timeout=seconds + 1).get("closed")
            self._process.wait(timeout=1)
        except (OSError, queue.Empty, subprocess.TimeoutExpired):
            self.kill()
        return result

    def kill(self) -> None:
        """End the process at once; the journal keeps what it had not delivered."""
        self._process.kill()
        self._process.wait()

    def _ask(self, **message: float) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if not line.endswith("\n"):
                break  # it was killed while it spoke
            message = json.loads(line)
            if "ready" in message:
                self._ready.put(message)
            elif "closed" in message:
                self._closed.put(message)
            elif "uploads" in message:
                self._uploads.put(message)
            elif "upload" in message:
                self._on_upload(UploadRecord(**message["upload"]))
            else:
                self._on_error(message["tracker"], message["error"])
        died = {"died": self._process.wait()}
        for waiting in (self._ready, self._uploads, self._closed):
            waiting.put(died)
