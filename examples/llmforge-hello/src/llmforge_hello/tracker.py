"""The tracker ``hello``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import llmforge
from llmforge import SAFE, Component, events, hookimpl
from pydantic import Field


class Hello(Component, kind="tracker"):
    """Writes what happens as readable lines to ``<run>/trackers/hello/log.txt``."""

    class Options(llmforge.Options):
        """Options of ``[tracker.hello]``."""

        digits: Annotated[int, SAFE, Field(ge=0, le=12)] = 4
        """Digits after the decimal point."""

    def __init__(self, options: Options | None = None) -> None:
        super().__init__(options)
        self._file: Path | None = None

    @hookimpl
    def forge_run_start(self, event: events.RunStarted) -> None:
        """Find the file; a run that continues appends to it."""
        self._file = Path(event.directory) / "trackers" / self.name / "log.txt"
        self._file.parent.mkdir(parents=True, exist_ok=True)
        if event.resumed_from is None:
            self._write(f"hello, {event.run_id}")
        else:
            self._write(f"hello again, {event.run_id}, at step {event.resumed_from}")

    @hookimpl
    def forge_metrics(self, event: events.MetricsLogged) -> None:
        """Write one line for a row of metrics."""
        self._write(f"step {event.step:>6}  {self._values(event.values)}")

    @hookimpl
    def forge_eval_end(self, event: events.EvaluationEnded) -> None:
        """Write one line for an evaluation, with a mark when it is the best so far."""
        best = "  best so far" if event.is_best else ""
        self._write(f"step {event.step:>6}  {self._values(event.values)}{best}")

    @hookimpl
    def forge_run_end(self, event: events.RunEnded) -> None:
        """Say how it ended."""
        self._write(f"goodbye: {event.state} at step {event.step}")

    def _values(self, values: Mapping[str, float]) -> str:
        digits = self.options.digits
        return "  ".join(f"{name} {value:.{digits}f}" for name, value in values.items())

    def _write(self, line: str) -> None:
        if self._file is None:
            raise RuntimeError("forge_run_start comes first")
        with self._file.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
