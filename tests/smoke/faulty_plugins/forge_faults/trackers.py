"""Trackers that remember, raise, hang and kill."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from llmforge import Component, Problem, events, hookimpl


class Notebook(Component, kind="tracker"):
    """Writes every event as a line into ``trackers/notebook/events.jsonl``.

    With ``FAULT_NOTEBOOK_PAUSE`` it takes that many seconds for each.
    """

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self._path: Path | None = None

    @hookimpl
    def forge_run_start(self, event: events.RunStarted) -> None:
        """Open the notebook."""
        folder = Path(event.directory) / "trackers" / self.name
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "events.jsonl"
        self._write("run_start", {"restart": event.restart, "pid": os.getpid()})

    @hookimpl
    def forge_metrics(self, event: events.MetricsLogged) -> None:
        """Write the names and the step."""
        self._write("metrics", {"step": event.step, "names": sorted(event.values)})

    @hookimpl
    def forge_eval_end(self, event: events.EvaluationEnded) -> None:
        """Write the values."""
        self._write("eval_end", {"step": event.step, "values": dict(event.values)})

    @hookimpl
    def forge_samples(self, event: events.SamplesGenerated) -> None:
        """Write the step."""
        self._write("samples", {"step": event.step})

    @hookimpl
    def forge_run_error(self, event: events.RunFailed) -> None:
        """Write the message."""
        self._write("run_error", {"message": event.message})

    @hookimpl
    def forge_run_end(self, event: events.RunEnded) -> None:
        """Write the state."""
        self._write("run_end", {"state": event.state})

    def _write(self, hook: str, body: dict[str, Any]) -> None:
        if self._path is None:
            raise RuntimeError(f"{hook} came before run_start")
        time.sleep(float(os.environ.get("FAULT_NOTEBOOK_PAUSE", "0")))
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"hook": hook, **body}) + "\n")


class _Everywhere(Component):
    """Does the same in every hook."""

    def act(self) -> None:
        """Misbehave."""
        raise NotImplementedError

    @hookimpl
    def forge_run_start(self, event: events.RunStarted) -> None:
        """Misbehave."""
        del event
        self.act()

    @hookimpl
    def forge_metrics(self, event: events.MetricsLogged) -> None:
        """Misbehave."""
        del event
        self.act()

    @hookimpl
    def forge_eval_end(self, event: events.EvaluationEnded) -> None:
        """Misbehave."""
        del event
        self.act()

    @hookimpl
    def forge_samples(self, event: events.SamplesGenerated) -> None:
        """Misbehave."""
        del event
        self.act()

    @hookimpl
    def forge_checkpoint_saved(self, event: events.CheckpointSaved) -> None:
        """Misbehave."""
        del event
        self.act()

    @hookimpl
    def forge_run_end(self, event: events.RunEnded) -> None:
        """Misbehave."""
        del event
        self.act()


class Raiser(_Everywhere, kind="tracker"):
    """Raises in every hook, its preflight included."""

    @hookimpl
    def forge_preflight(self) -> list[Problem]:
        """Raise."""
        raise ConnectionError("injected by forge_faults: nobody answers")

    def act(self) -> None:
        """Raise."""
        raise ConnectionError("injected by forge_faults: the service is away")


class Sleeper(_Everywhere, kind="tracker"):
    """Hangs for a minute in every hook."""

    def act(self) -> None:
        """Hang."""
        time.sleep(60)


class NeverEnds(Notebook, kind="tracker"):
    """Takes everything but the end, in which it hangs for a minute."""

    @hookimpl
    def forge_run_end(self, event: events.RunEnded) -> None:
        """Hang."""
        del event
        time.sleep(60)


class Switch(Notebook, kind="tracker"):
    """Takes events while the file that ``FAULT_SWITCH`` names exists."""

    def _write(self, hook: str, body: dict[str, Any]) -> None:
        if not Path(os.environ["FAULT_SWITCH"]).exists():
            raise ConnectionError("injected by forge_faults: switched off")
        super()._write(hook, body)


class Killer(_Everywhere, kind="tracker"):
    """Kills the process it runs in, at its third event."""

    seen = 0

    def act(self) -> None:
        """Count, then kill."""
        self.seen += 1
        if self.seen == 3:
            os.kill(os.getpid(), signal.SIGKILL)
