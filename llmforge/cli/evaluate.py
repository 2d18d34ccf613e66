"""``forge evaluate``: measure a checkpoint on a split."""

from __future__ import annotations

from typing import Annotated

import typer

from llmforge.cli import options
from llmforge.cli.common import echo


def evaluate(
    checkpoint: options.Checkpoint,
    split: Annotated[
        str, typer.Option("--split", help="train, validation or test.")
    ] = "validation",
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    weights: options.Weights = None,
    as_json: options.AsJson = False,
    root: options.Root = None,
) -> None:
    """Measure a checkpoint over a whole split: loss, and the recipe's metrics.

    The result is also saved in the run's evaluation.json, unless --weights replaced its weights.
    """
    from llmforge.cli.common import emit_json, error_console, run_root
    from llmforge.evaluation import evaluate_checkpoint, record_evaluation, run_of
    from llmforge.generation import locate
    from llmforge.generation.load import require_device

    require_device(device, dtype)
    found = locate(checkpoint, root=run_root(root), say=error_console().print)
    result = evaluate_checkpoint(
        found,
        split=split,
        device=device,
        dtype=dtype,
        weights=weights,
        notice=error_console().print,
    )
    if as_json:
        emit_json(result)
    else:
        run = run_of(found)
        name = str(found.path) if run is None else f"{run.id}@{found.step}"
        echo(f"{name} on {split} ({result['tokens']:,} tokens)")
        for name, value in result.items():
            if "/" in name:
                echo(f"  {name:<20} {value:.4f}")
    kept = record_evaluation(found, result) if weights is None else None
    if not as_json:
        echo(f"  kept in {kept}" if kept else "  not kept: the weights are not of a run")
