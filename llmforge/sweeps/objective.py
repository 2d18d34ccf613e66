"""What a run is worth: the best value of the sweep's metric over the run."""

from __future__ import annotations

import math
from pathlib import Path

from llmforge.errors import RunError
from llmforge.insight.metrics import columns, metric_rows
from llmforge.options import closest
from llmforge.rundir import Completion, RunDirectory
from llmforge.rundir.completion import load_completion
from llmforge.rundir.layout import completion_path

LOSS = "val/loss"


def objective(directory: RunDirectory, *, metric: str, direction: str) -> float:
    """Return the best value of ``metric`` in the metrics of a run.

    Raises:
        RunError: the metric never appears.
    """
    rows = metric_rows(directory.metrics)
    values = [float(row[metric]) for row in rows if metric in row]
    finite = [value for value in values if math.isfinite(value)]
    if finite:
        return min(finite) if direction == "minimize" else max(finite)
    done = load_completion(completion_path(directory.root, directory.id))
    if done is not None and not rows and metric == LOSS and done.best_loss is not None:
        return done.best_loss  # the directory is gone
    known = [name for name in columns(rows) if name not in ("step", "epoch")]
    near = closest(metric, known)
    raise RunError(
        f"sweep.metric '{metric}' never appears in {directory.id}",
        remedy=f"did you mean '{near}'?" if near else f"it has: {', '.join(known)}",
    )


def equal_run(root: Path, identity: str) -> Completion | None:
    """Return the completion of a run of this identity, whatever its id and origin."""
    for path in sorted(completion_path(root, "").parent.glob("*.json")):
        done = load_completion(path)
        if done is not None and done.identity == identity:
            return done
    return None
