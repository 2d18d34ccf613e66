"""What an assistant may ask about runs: functions that read, by the names it calls them."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llmforge.errors import UsageError

_MOST_RUNS = 200
_MOST_POINTS = 1_000
_MOST_LINES = 1_000


class RunTools:
    """The views of ``forge runs`` and ``forge checkpoints`` on the runs below one directory.

    Nothing here changes a run. A run is named by its id or the beginning of it; errors are
    :class:`~llmforge.errors.ForgeError` with a message that says what would have been right.

    Args:
        root: the directory of all runs.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def all(self) -> Sequence[Callable[..., Any]]:
        """Return the tools; name, arguments and docstring are what an assistant sees of them."""
        return (
            self.list_runs,
            self.show_run,
            self.read_recipe,
            self.read_metrics,
            self.compare_runs,
            self.list_checkpoints,
            self.show_checkpoint,
            self.read_samples,
            self.read_log,
        )

    def list_runs(
        self,
        where: str = "",
        sort: str = "started",
        reverse: bool = False,
        columns: list[str] | None = None,
        limit: int = 20,
    ) -> dict[str, Any]:
        """List runs, the newest first unless `sort` names another column.

        `where` is an expression over columns, metrics and recipe keys, such as
        "state == 'completed' and val/loss < 3.3 and optimizer.adamw.lr >= 1e-3". `columns` may
        name metrics and recipe keys too. Of losses and perplexities the lowest comes first.
        """
        from llmforge.insight.runs_index import runs_table

        found = runs_table(self._root, where=where, sort=sort, reverse=reverse, columns=columns)
        shown = found[: max(0, min(limit, _MOST_RUNS))]
        return {"matching": len(found), "runs": shown}

    def show_run(self, run: str) -> dict[str, Any]:
        """Return what is known of a run: state, progress, results, hardware, code, checkpoints."""
        from llmforge.cli.run_views import run_json
        from llmforge.rundir import entry_of, find_run

        return run_json(entry_of(find_run(self._root, _plain(run), gone=True)))

    def read_recipe(self, run: str) -> str:
        """Return the recipe of a run as TOML, with every default filled in."""
        return self._directory(run).recipe.read_text(encoding="utf-8")

    def read_metrics(
        self, run: str, names: list[str] | None = None, points: int = 100
    ) -> dict[str, Any]:
        """Return the metrics of a run over its steps, thinned to about `points` rows.

        Without `names` it returns the names there are, and the last row.
        """
        from llmforge.insight.metrics import columns, metric_rows

        rows = metric_rows(self._directory(run).metrics)
        if names is None:
            return {"names": columns(rows), "rows": len(rows), "last": rows[-1] if rows else {}}
        if unknown := [name for name in names if rows and name not in columns(rows)]:
            raise UsageError(
                f"the run has no metric '{unknown[0]}'", remedy=", ".join(columns(rows))
            )
        kept = [row for row in rows if any(name in row for name in names)]
        stride = -(-len(kept) // max(1, min(points, _MOST_POINTS)))
        chosen = kept[:: stride or 1]
        if kept and chosen[-1] is not kept[-1]:
            chosen.append(kept[-1])
        wanted = ("step", "epoch", *names)
        return {
            "rows": len(kept),
            "shown": [{key: row[key] for key in wanted if key in row} for row in chosen],
        }

    def compare_runs(self, left: str, right: str) -> dict[str, Any]:
        """Return the recipe keys in which two runs differ, and their results side by side."""
        from llmforge.insight.compare import compare
        from llmforge.rundir import entry_of, find_run

        entries = [entry_of(find_run(self._root, _plain(run), gone=True)) for run in (left, right)]
        found = dataclasses.asdict(compare(*entries))
        return {"runs": [entry.directory.id for entry in entries], **found}

    def list_checkpoints(self, run: str) -> dict[str, Any]:
        """List the checkpoints of a run: step, loss, size, and which is best, last or pinned."""
        from llmforge.insight.inventory import checkpoints_of

        found = checkpoints_of(self._directory(run))
        return {"checkpoints": [dataclasses.asdict(info) for info in found]}

    def show_checkpoint(self, checkpoint: str) -> dict[str, Any]:
        """Return what is known of a checkpoint: RUN, RUN@best, RUN@last or RUN@STEP."""
        from llmforge.generation.address import locate
        from llmforge.insight.checkpoint_facts import checkpoint_facts

        return dataclasses.asdict(checkpoint_facts(locate(_plain(checkpoint), root=self._root)))

    def read_samples(self, run: str, last: int = 5) -> dict[str, Any]:
        """Return the last texts that a run generated while it trained."""
        from llmforge.insight.metrics import metric_rows

        rows = metric_rows(self._directory(run).samples)
        return {"rows": len(rows), "last": rows[-max(1, min(last, _MOST_LINES)) :]}

    def read_log(self, run: str, lines: int = 50) -> str:
        """Return the last lines of a run's log."""
        path = self._directory(run).path / "log.txt"
        try:
            with path.open(encoding="utf-8", errors="replace") as file:
                return "".join(deque(file, maxlen=max(1, min(lines, _MOST_LINES))))
        except FileNotFoundError:
            return ""

    def _directory(self, run: str) -> Any:
        from llmforge.rundir import find_run

        return find_run(self._root, _plain(run))


def _plain(name: str) -> str:
    """Refuse what would look beyond the directory of all runs: a path, or an address to fetch.

    Raises:
        UsageError: it is one.
    """
    if set(name) & set("/\\:"):
        raise UsageError(
            f"'{name}' is no run here", remedy="name it by its id, as list_runs has it"
        )
    return name
