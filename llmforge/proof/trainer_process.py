"""One ``forge train`` as a process that can be stopped, looked at and killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from llmforge.errors import EXIT_INTERRUPTED, EXIT_OK, RunError
from llmforge.proof.phases import Phases, Watch
from llmforge.redaction import redact

_POLL_SECONDS = 0.004
_STOP_SECONDS = 2.0
_TAIL_BYTES = 16_384


class TrainerProcess:
    """A training process and its courier.

    Args:
        arguments: of ``forge``.
        environment: of the process.
        output: what it prints is appended to this file.
        watch: looks at its run.
        check_stop: raises when the user wants to stop; called while waiting.
        seconds: after so many it is taken for one that hangs; None for as long as it takes.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str],
        output: Path,
        watch: Watch,
        check_stop: Callable[[], None],
        seconds: float | None = None,
    ) -> None:
        self.watch = watch
        self.began = time.monotonic()
        self._output = output
        self._check_stop = check_stop
        self._seconds = seconds
        with output.open("ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "llmforge", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=dict(environment),
                start_new_session=True,  # a Ctrl-C is for the proof, which kills it
            )

    def __enter__(self) -> TrainerProcess:
        return self

    def __exit__(self, *error: object) -> None:
        self.kill(courier=True)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def seconds(self) -> float:
        """How long ago it was started."""
        return time.monotonic() - self.began

    @property
    def exit_code(self) -> int | None:
        """How it ended; None while it runs."""
        return self._process.poll()

    @property
    def ended_well(self) -> bool:
        """Whether it took the steps it was to take: all, or those to ``train.stop_at``."""
        return self.exit_code in (EXIT_OK, EXIT_INTERRUPTED)

    def wait_for(self, reached: Callable[[Phases], bool]) -> bool:
        """Look at the run until ``reached`` says so; False when the process ended before.

        Raises:
            RunError: the process hangs.
        """
        while not reached(self.watch.look()):
            if self.exit_code is not None:
                return False
            self._check_stop()
            if self._seconds is not None and self.seconds > self._seconds:
                raise RunError(
                    f"the resumed run has not ended after {self._seconds:.0f} s: "
                    f"{self.last_words()}"
                )
            time.sleep(_POLL_SECONDS)
        return True

    def stop(self) -> bool:
        """Stop the process and its courier where they are; False when it has ended."""
        try:
            trainer = psutil.Process(self.pid)
            for process in (trainer, *trainer.children(recursive=True)):
                process.suspend()
            deadline = time.monotonic() + _STOP_SECONDS
            while trainer.status() != psutil.STATUS_STOPPED:
                if trainer.status() == psutil.STATUS_ZOMBIE or time.monotonic() > deadline:
                    break
                time.sleep(_POLL_SECONDS)
        except psutil.NoSuchProcess:
            return False
        return self.exit_code is None

    def resume(self) -> None:
        """Let the stopped processes continue."""
        for process in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

    def kill(self, *, courier: bool) -> None:
        """Kill the process, and its courier too where a machine is to be lost."""
        family = self._family()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, _KILL)
        self._process.wait()
        for process in family[1:]:
            with contextlib.suppress(psutil.NoSuchProcess):
                if courier:
                    process.kill()
                else:
                    process.resume()
        if courier:
            psutil.wait_procs(family[1:], timeout=_STOP_SECONDS)

    def last_words(self) -> str:
        """Return the error it printed, or its last line."""
        text = self._output.read_bytes()[-_TAIL_BYTES:].decode(errors="replace").strip()
        _, ours, words = text.rpartition("forge: ")
        lines = words.splitlines() if ours else text.splitlines()[-1:]
        return redact("; ".join(line.strip() for line in lines))

    def _family(self) -> list[psutil.Process]:
        if self.exit_code is not None:
            return []
        try:
            trainer = psutil.Process(self.pid)
            return [trainer, *trainer.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


_KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows ends a process by either
