"""Writes metrics and samples as CSV files for spreadsheets and data frames."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from llmforge import Component, events, hookimpl

if TYPE_CHECKING:
    from llmforge_plugins.trackers._csv_tables import MetricsTable, SamplesTable


class Csv(Component, kind="tracker"):
    """CSV files under ``<run>/trackers/csv``: a row per step, and a row per generated text."""

    def __init__(self, options: object = None) -> None:
        super().__init__(options)
        self._metrics: MetricsTable | None = None
        self._samples: SamplesTable | None = None

    @hookimpl
    def forge_run_start(self, event: events.RunStarted) -> None:
        """Open the files where an earlier start left them."""
        from llmforge_plugins.trackers._csv_tables import MetricsTable, SamplesTable

        directory = Path(event.directory) / "trackers" / self.name
        directory.mkdir(parents=True, exist_ok=True)
        self._metrics = MetricsTable(directory / "metrics.csv")
        self._samples = SamplesTable(directory / "samples.csv")

    @hookimpl
    def forge_metrics(self, event: events.MetricsLogged) -> None:
        """Write values into the row of their step."""
        self._table().put(event.step, event.values)

    @hookimpl
    def forge_eval_end(self, event: events.EvaluationEnded) -> None:
        """Write the evaluation's values into the row of their step."""
        self._table().put(event.step, event.values)

    @hookimpl
    def forge_samples(self, event: events.SamplesGenerated) -> None:
        """Write a row for every generated text."""
        if self._samples is None:
            raise RuntimeError("forge_run_start has not been called")
        self._samples.put(event.step, event.samples)

    def _table(self) -> MetricsTable:
        if self._metrics is None:
            raise RuntimeError("forge_run_start has not been called")
        return self._metrics
