"""What the page may ask about the runs below a root, each question a method."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from llmforge.errors import ForgeError
from llmforge.rundir import RunEntry
from llmforge.ui import run_details
from llmforge.ui.comparison import compared
from llmforge.ui.curves import Curves
from llmforge.ui.metric_files import MetricFiles
from llmforge.ui.run_rows import RunTable, find_entry, matching_ids
from llmforge.ui.sweep_details import SweepDetails


class Answers:
    """Reads runs and sweeps; every method may be called from several threads.

    Args:
        root: the directory of all runs.
        version: of llmforge.
    """

    def __init__(self, root: Path, *, version: str) -> None:
        self.table = RunTable(root)
        self.curve_reader = Curves(MetricFiles())
        self._root = root
        self._version = version
        self._sweeps = SweepDetails(root)

    def warm(self) -> None:
        """Read the newest run, which imports what the first look at any would wait for."""
        rows = self.runs()["runs"]
        newest = max(rows, key=lambda row: row["started"] or 0, default=None)
        if newest is not None:
            with suppress(ForgeError):
                self.run(newest["id"])
                self.curves(newest["id"], points=4)

    def status(self) -> dict[str, Any]:
        """Return which llmforge shows which directory."""
        return {"version": self._version, "root": str(self._root)}

    def runs(self, only: Collection[str] | None = None) -> dict[str, Any]:
        """Return the table of runs, or the rows of some, and the version of the table."""
        changes = self.table.changes()
        rows = [row for row in changes.rows if only is None or row["id"] in only]
        return {"runs": rows, "version": changes.version, "whole": True}

    def matching(self, where: str) -> dict[str, Any]:
        """Return the ids of the runs that an expression holds for."""
        return {"ids": matching_ids(self._root, where)}

    def entry(self, run_id: str) -> RunEntry:
        """Return the run of exactly this id.

        Raises:
            RunError: there is none.
        """
        return find_entry(self._root, run_id)

    def run(self, run_id: str) -> dict[str, Any]:
        """Return the facts of a run."""
        entry = self.entry(run_id)
        return run_details.overview(entry, metrics=self.curve_reader.names(entry.directory))

    def curves(self, run_id: str, **choice: Any) -> dict[str, Any]:
        """Return curves of a run; ``choice`` as :meth:`Curves.read` takes it."""
        return self.curve_reader.read(self.entry(run_id).directory, **choice)

    def checkpoints(self, run_id: str) -> dict[str, Any]:
        """Return checkpoints, uploads and deployments of a run."""
        return run_details.checkpoints(self.entry(run_id))

    def samples(self, run_id: str) -> dict[str, Any]:
        """Return the texts that a run's model wrote while it was trained."""
        return run_details.samples(self.entry(run_id))

    def tests(self, run_id: str) -> dict[str, Any]:
        """Return the report of a run's generation tests."""
        return run_details.generation_tests(self.entry(run_id))

    def recipe(self, run_id: str) -> dict[str, Any]:
        """Return the resolved recipe of a run."""
        return run_details.recipe_text(self.entry(run_id))

    def log(self, run_id: str, *, begin: int | None = None) -> dict[str, Any]:
        """Return the end of a run's log."""
        return run_details.log_tail(self.entry(run_id), begin=begin)

    def compare(self, run_ids: Sequence[str]) -> dict[str, Any]:
        """Return what differs between runs, and their results."""
        return compared([self.entry(run_id) for run_id in run_ids])

    def sweeps(self) -> dict[str, Any]:
        """Return the sweeps there are."""
        return {"sweeps": self._sweeps.all()}

    def sweep(self, sweep_id: str) -> dict[str, Any]:
        """Return a sweep with its trials."""
        return self._sweeps.one(sweep_id)
