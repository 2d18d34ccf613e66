"""``forge runs reproduce``: whether a run can be repeated here, and repeating it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmforge.cli import options
from llmforge.cli.common import console, echo, emit_json
from llmforge.cli.run_commands.training import ProcessesPerNode, own_place, stored_run

if TYPE_CHECKING:
    from llmforge.insight.reproduction import Change, Repetition
    from llmforge.rundir import RunDirectory, RunRecord

TrainAgain = Annotated[
    bool, typer.Option("--run", help="Train it again as a new run, and compare the metrics.")
]
Tolerance = Annotated[
    float,
    typer.Option(
        "--tolerance",
        metavar="SHARE",
        min=0.0,
        help="Largest relative difference of a metric that is still the same.",
    ),
]


def reproduce(
    run: options.Run,
    train_again: TrainAgain = False,
    tolerance: Tolerance = 0.0,
    nproc_per_node: ProcessesPerNode = None,
    as_json: options.AsJson = False,
    root: options.Root = None,
) -> None:
    """Say what is another here than when a run was trained; with --run, train it again.

    It is trained as it was: with the precision, the micro-batches and as many processes as are
    recorded. Exit codes: 1 the repetition came out otherwise.
    """
    from llmforge.distributed import find_place
    from llmforge.distributed.launched import under_launcher
    from llmforge.errors import EXIT_FAILURE
    from llmforge.insight.reproduction import changes_since, compare_metrics, data_changes
    from llmforge.rundir import read_record

    directory = stored_run(root, run)
    record = read_record(directory)
    changes = changes_since(record)
    if not as_json and not under_launcher():  # which starts this very command as every rank
        _print_changes(directory.id, changes)
    if not train_again:
        if as_json:
            emit_json({"id": directory.id, "changes": [vars(change) for change in changes]})
        return
    repeated = _train_again(directory, record, nproc_per_node)
    data = data_changes(record, read_record(repeated))
    found = compare_metrics(directory, repeated, tolerance=tolerance)
    if find_place().is_leader and as_json:
        body: dict[str, Any] = {"id": directory.id, "repeated": repeated.id}
        body["changes"] = [vars(change) for change in (*changes, *data)]
        emit_json({**body, "metrics": vars(found)})
    elif find_place().is_leader:
        if data:
            _print_changes(repeated.id, data)
        echo(f"{repeated.id}: {_verdict(found, tolerance)}")
    if not found.within:
        raise typer.Exit(EXIT_FAILURE)


def _train_again(
    directory: RunDirectory, record: RunRecord, nproc_per_node: int | None
) -> RunDirectory:
    """Train the recipe of a run under an id of its own, as ``auto`` was resolved then."""
    from llmforge.cli.train import train
    from llmforge.rundir import RunDirectory

    number = 1
    while (place := directory.path.with_name(f"{directory.id}-again-{number}")).exists():
        if not _is_done(place):
            break  # an interrupted repetition is trained on
        number += 1
    given = [
        *own_place(directory, same_id=False),
        f"run.id={json.dumps(place.name)}",
        *(
            f"train.{name}={json.dumps(record.resolved[name])}"
            for name in ("precision", "compile", "micro_batch_size")
            if name in record.resolved
        ),
    ]
    ranks = int(record.resolved.get("world_size", 1))
    processes = nproc_per_node or (ranks if ranks > 1 else None)
    train(recipe=str(directory.recipe), assignments=given, nproc_per_node=processes)
    return RunDirectory(place)


def _is_done(place: Path) -> bool:
    from llmforge.rundir import RunDirectory, entry_of
    from llmforge.rundir.record import FINISHED

    return entry_of(RunDirectory(place)).state in FINISHED


def _print_changes(run_id: str, changes: list[Change]) -> None:
    from llmforge.cli.render import Column, plain_value, print_table

    if not changes:
        echo(f"{run_id}: code, packages and machine are as they were recorded")
        return
    rows = [
        (item.name, *("-" if x is None else plain_value(x) for x in (item.recorded, item.here)))
        for item in changes
    ]
    columns = [Column("differs"), Column("recorded", fold=True), Column("here", fold=True)]
    print_table(console(), columns, rows)


def _verdict(found: Repetition, tolerance: float) -> str:
    if found.identical:
        return f"all metrics of {found.rows:,} rows are the same, bit for bit"
    if found.furthest == float("inf"):
        return f"{found.where} is not the same in both"
    text = f"{found.rows:,} rows, the largest difference {found.furthest:.1e} in {found.where}"
    return f"{text}, {'within' if found.within else 'beyond'} the tolerance of {tolerance:g}"
