"""``forge evaluate``: measure a checkpoint on a split, or on benchmarks."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmforge.cli import options
from llmforge.cli.common import console, echo, emit_json, error_console, run_root

if TYPE_CHECKING:
    from llmforge.checkpoint import Checkpoint
    from llmforge.rundir import RunDirectory

_HARNESS = "Benchmarks of the lm-evaluation-harness"
_PATIENCE = 10.0
"""Seconds without progress after which trackers get the results another time."""


def evaluate(
    checkpoint: options.Checkpoint,
    split: Annotated[
        str, typer.Option("--split", help="train, validation or test.")
    ] = "validation",
    harness: Annotated[
        str | None,
        options.option(
            "--harness",
            metavar="TASKS",
            help="Tasks by name (arc_easy,hellaswag), or YAML files of tasks.",
            panel=_HARNESS,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        options.option(
            "--limit", metavar="N", min=1, help="Only N examples of each task.", panel=_HARNESS
        ),
    ] = None,
    shots: Annotated[
        int | None,
        options.option(
            "--shots",
            metavar="N",
            min=0,
            help="Solved examples before each question; without it as the task says.",
            panel=_HARNESS,
        ),
    ] = None,
    chat: Annotated[
        bool,
        typer.Option(
            "--chat",
            help="Lay questions out as messages by the run's chat template.",
            rich_help_panel=_HARNESS,
        ),
    ] = False,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    weights: options.Weights = None,
    as_json: options.AsJson = False,
    root: options.Root = None,
) -> None:
    """Measure a checkpoint over a whole split: loss, and the recipe's metrics.

    The result is also saved in the run's evaluation.json, unless --weights replaced its weights.
    With --dtype int8 the fp32 weights are measured too, and theirs is the one that is saved.
    With --harness it answers benchmarks instead; results are saved in benchmarks.json and logged
    to the run's trackers.
    """
    from llmforge.errors import UsageError
    from llmforge.generation import locate
    from llmforge.generation.load import require_device

    require_device(device, dtype)
    if harness is None and (limit is not None or shots is not None or chat):
        raise UsageError("--limit, --shots and --chat are for benchmarks", remedy="--harness TASKS")
    if harness is not None:
        from llmforge.harness.benchmarks import require_harness, require_tasks

        require_harness()
        os.environ.setdefault("TQDM_DISABLE", "1")  # the harness's own bars; read when imported
    tasks = [task.strip() for task in (harness or "").split(",") if task.strip()]
    found = locate(checkpoint, root=run_root(root), say=error_console().print)
    if harness is None:
        _on_split(found, split, device=device, dtype=dtype, weights=weights, as_json=as_json)
        return
    require_tasks(tasks)
    from llmforge.generation import load_checkpoint
    from llmforge.harness.benchmarks import run_benchmarks

    loaded = load_checkpoint(
        found, device=device, dtype=dtype, weights=weights, notice=error_console().print
    )
    results = run_benchmarks(loaded, tasks, limit=limit, shots=shots, chat=chat)
    if as_json:
        emit_json(results)
    else:
        _print_benchmarks(results)
    reason = "the weights are not of a run" if weights else ""
    reason = "the weights were quantised" if loaded.int8 is not None else reason
    _keep_benchmarks(found, results, changed=reason, quiet=as_json)


def _on_split(
    found: Checkpoint,
    split: str,
    *,
    device: str,
    dtype: str,
    weights: Path | None,
    as_json: bool,
) -> None:
    from llmforge.evaluation import evaluate_checkpoint, record_evaluation
    from llmforge.rundir.layout import run_of

    def measured(number_format: str) -> dict[str, Any]:
        return evaluate_checkpoint(
            found,
            split=split,
            device=device,
            dtype=number_format,
            weights=weights,
            notice=error_console().print,
        )

    result = measured(dtype)
    plain = measured("fp32") if result["dtype"] == "int8" else None
    if as_json:
        emit_json(result if plain is None else {**result, "fp32": _metrics(plain)})
    else:
        run = run_of(found.path)
        name = str(found.path) if run is None else f"{run.id}@{found.step}"
        echo(f"{name} on {split} ({result['tokens']:,} tokens)")
        for name, value in _metrics(result).items():
            echo(f"  {name:<20} {value:.4f}{'' if plain is None else _beside(plain[name], value)}")
    kept = None
    if weights is None:
        kept = record_evaluation(found, result if plain is None else plain)
        if plain is not None:
            _keep_quality(found, plain, result)
    if not as_json:
        kind = "kept" if plain is None else "fp32 kept"
        echo(f"  {kind} in {kept}" if kept else "  not kept: the weights are not of a run")


def _metrics(result: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in result.items() if "/" in name}


def _beside(plain: float, value: float) -> str:
    """Return what follows a metric with int8 weights: the one with fp32 weights."""
    change = f" ({(value / plain - 1) * 100:+.2f} %)" if plain else ""
    return f"   fp32 {plain:.4f}{change}"


def _keep_quality(found: Checkpoint, plain: Mapping[str, Any], result: Mapping[str, Any]) -> None:
    """Save what int8 costs on the whole validation split: generating then measures no more."""
    from llmforge.int8_quality import quality_of, record_quality

    if result["split"] == "validation":
        record_quality(found, quality_of(plain, result, name="val", rows=result["rows"]))


def _print_benchmarks(results: Sequence[Mapping[str, Any]]) -> None:
    from llmforge.cli.render import Column, print_table

    columns = [
        Column("task"),
        Column("examples", right=True),
        Column("shots", right=True),
        Column("metric"),
        Column("value", right=True),
    ]
    rows = [
        (
            row["task"],
            "" if row["examples"] is None else f"{row['examples']:,}",
            "" if row["shots"] is None else str(row["shots"]),
            name,
            f"{value:.4f}",
        )
        for row in results
        for name, value in row["metrics"].items()
    ]
    print_table(console(), columns, rows)


def _keep_benchmarks(
    found: Checkpoint, results: Sequence[Mapping[str, Any]], *, changed: str, quiet: bool
) -> None:
    """Save results beside the run and log them, unless they are not of its weights.

    ``changed`` says why they are not; else it is empty.
    """
    from llmforge.harness.benchmarks import log_benchmarks, record_benchmarks
    from llmforge.rundir.layout import run_of

    directory = None if changed else run_of(found.path)
    if directory is None:
        if not quiet:
            echo(f"not kept: {changed or 'the weights are not of a run'}")
        return
    path = record_benchmarks(directory, found, results)
    logged = log_benchmarks(directory, found, results)
    if quiet:
        return
    echo(f"kept in {path}")
    if not logged:
        echo("the run is being trained: trackers do not receive them", err=True)
    elif pending := _deliver(directory):
        echo(f"{pending} did not receive them yet: forge runs sync {directory.id}", err=True)


def _deliver(directory: RunDirectory) -> str:
    """Give the run's trackers what waits for them; return those that took nothing."""
    from llmforge.courier.deliver_later import sync_trackers
    from llmforge.insight.compare import read_recipe
    from llmforge.insight.inventory import tracker_names

    names = tracker_names(read_recipe(directory))
    if not names:
        return ""
    found = sync_trackers(
        directory,
        names,
        patience=_PATIENCE,
        on_error=lambda tracker, message: echo(f"{tracker}: {message}", err=True),
        on_notice=lambda text: echo(text, err=True),
    )
    return ", ".join(name for name, item in found.items() if item.pending)
