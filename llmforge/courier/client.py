"""The training process's side of the courier: start it, hear from it, close it in bounded time."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from llmforge.errors import PluginError, Problem
from llmforge.rundir.layout import RunDirectory
from llmforge.rundir.uploads import UploadRecord

READY_SECONDS = 60.0
STORAGE = "storage"
"""What a failure of storage is called among those of the trackers."""
COURIER = "courier"
"""What a failure of the courier itself is called there."""
_ANSWER_SECONDS = 2.0
_LOOK_SECONDS = 0.5
_MOST_RESTARTS = 3


class Courier:
    """A running courier process; one that dies while the run continues is started again.

    Args:
        directory: the run; its ``recipe.toml`` must be written already.
        on_error: told (tracker, message) when a tracker fails, ``storage``, or the ``courier``.
        on_upload: told an upload whenever its state changes.
        on_kept: told step and address of a checkpoint that is safe in a tracker's service. All
            three are called from another thread.
        only: drive these trackers, ``notify`` for messages to people; all of them when empty.
        variables: further variables of its environment.

    Attributes:
        notices: what the trackers want the user to know before step 0, once they are ready.
    """

    def __init__(
        self,
        directory: RunDirectory,
        *,
        on_error: Callable[[str, str], None],
        on_upload: Callable[[UploadRecord], None] = lambda _: None,
        on_kept: Callable[[int, str], None] = lambda *_: None,
        only: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self._variables = dict(variables or {})
        self.notices: Sequence[str] = ()
        self._directory = directory
        self._only = only
        self._was_ready = self._uploads_started = self._ending = self._watches = False
        self._finish_until: float | None = None
        self._lock = threading.Lock()
        self._on_error = on_error
        self._on_upload = on_upload
        self._on_kept = on_kept
        self._uploads: queue.Queue[dict[str, Any]] = queue.Queue()
        self._ready: queue.Queue[dict[str, Any]] = queue.Queue()
        self._closed: queue.Queue[dict[str, Any]] = queue.Queue()
        self._stderr_path = directory.trackers / "courier.log"
        directory.trackers.mkdir(parents=True, exist_ok=True)
        self._process = self._start()
        self._reader = threading.Thread(target=self._read, name="forge-courier", daemon=True)
        self._reader.start()

    def _start(self) -> subprocess.Popen[str]:
        path = str(self._directory.path.absolute())
        with self._stderr_path.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "llmforge.courier", path, *self._only],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
                env={**os.environ, **self._variables},
            )

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
                f"the courier process ended with code {answer['died']} before the run started",
                remedy=f"see {self._stderr_path}",
            )
        self.notices = answer.get("notices", ())
        return [Problem(**problem) for problem in answer["problems"]]

    def begin_uploads(self) -> None:
        """Let uploads begin: it is settled which checkpoints the run continues with."""
        self._uploads_started = True
        with contextlib.suppress(OSError):  # it is gone, and whoever asks next learns so
            self._ask(begin_uploads=1)

    def watch_steps(self) -> None:
        """Have people told when no step is taken any more, as the recipe's ``[notify]`` asks."""
        self._watches = True
        with contextlib.suppress(OSError):
            self._ask(watch_steps=1)

    def finish_uploads(
        self, seconds: float, *, waiting: Callable[[], None] = lambda: None
    ) -> Mapping[str, Any] | None:
        """Let uploads arrive for at most ``seconds``; ``waiting`` is called now and then meanwhile.

        A courier that dies meanwhile, or died just before, is started again and goes on.

        Returns:
            What :class:`~llmforge.courier.storage_thread.UploadSummary` holds; None when the
            courier could not say.
        """
        self._finish_until = time.monotonic() + seconds  # set first: who starts it again asks again
        self._ask_to_finish()
        deadline = self._finish_until + _ANSWER_SECONDS
        while (left := deadline - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                answer = self._uploads.get(timeout=min(left, _LOOK_SECONDS))
                found: Mapping[str, Any] | None = answer.get("uploads")
                return found
            waiting()
        return None

    def _ask_to_finish(self) -> None:
        if self._finish_until is not None:
            left = max(0.0, self._finish_until - time.monotonic())
            with contextlib.suppress(OSError):  # it is gone, and is started again or never will be
                self._ask(finish_uploads=left)

    def close(self, seconds: float) -> Mapping[str, Mapping[str, Any]] | None:
        """Let the trackers deliver the rest, then end the process, killing it if need be.

        Args:
            seconds: the bound on the whole call, within a second or two.

        Returns:
            Per tracker, how many events were ``delivered``, how many are ``pending``, and a
            ``link`` to where they can be seen; None when the courier could not say.
        """
        self._ending = True
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
        with self._lock:
            self._ending = True
            process = self._process
        process.kill()
        process.wait()

    def _ask(self, **message: float) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()

    def _read(self) -> None:
        for restarts in itertools.count():
            self._listen()
            died = {"died": self._process.wait()}
            with self._lock:
                if self._ending or not self._was_ready or restarts == _MOST_RESTARTS:
                    break
                self._on_error(COURIER, f"it ended with code {died['died']} and is started again")
                self._process = self._start()
            if self._uploads_started:
                self.begin_uploads()
            if self._watches:
                self.watch_steps()
            self._ask_to_finish()
        for waiting in (self._ready, self._uploads, self._closed):
            waiting.put(died)

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if not line.endswith("\n"):
                return  # it was killed while it spoke
            message = json.loads(line)
            if "ready" in message:
                self._take_ready(message)
            elif "closed" in message:
                self._closed.put(message)
            elif "uploads" in message:
                self._uploads.put(message)
            elif "upload" in message:
                self._on_upload(UploadRecord(**message["upload"]))
            elif "kept" in message:
                self._on_kept(message["kept"]["step"], message["kept"]["url"])
            else:
                self._on_error(message["tracker"], message["error"])

    def _take_ready(self, message: dict[str, Any]) -> None:
        if not self._was_ready:
            self._was_ready = bool(message["ready"])
            self._ready.put(message)
        for problem in message["problems"] if self._was_ready else ():
            self._on_error(COURIER, str(Problem(**problem)))
