"""What :mod:`llmforge.doctor.training` runs as a process: train, stop, resume, say how it went."""

from __future__ import annotations

import json
import sys
from typing import Any

from llmforge.errors import ForgeError
from llmforge.insight.metrics import metric_rows
from llmforge.recipe import load_recipe
from llmforge.redaction import redact
from llmforge.run.plan import make_plan
from llmforge.run.reporting.reporter import Reporter
from llmforge.run.runner import start_run
from llmforge.run.signals import StopSignals
from llmforge.rundir import RunDirectory, read_record


def main(stop_at: int) -> int:
    """Train ``recipe.toml`` here until ``stop_at``, then to its end; print the result as JSON.

    Returns:
        the exit code.
    """
    try:
        _train({"train.stop_at": stop_at})
        print(json.dumps(_result(_train({}))))
    except ForgeError as error:
        print(redact(error.reason), file=sys.stderr)
        return error.exit_code
    return 0


def _train(overrides: dict[str, Any]) -> RunDirectory:
    """Train as ``forge train`` does, but without drawing curves, which takes longer than this."""
    plan = make_plan(load_recipe("recipe.toml", overrides=overrides))
    with StopSignals() as signals:
        return start_run(plan, signals=signals, reporter=Reporter()).directory


def _result(run: RunDirectory) -> dict[str, Any]:
    losses = [row["train/loss"] for row in metric_rows(run.metrics)]
    starts = [event for event in metric_rows(run.journal) if event["hook"] == "forge_run_start"]
    return {
        "first": losses[0],
        "last": losses[-1],
        "device": read_record(run).resolved["device"],
        "resumed": starts[-1]["resumed_from"],
    }


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
