"""``forge runs resume`` and ``clone``: training with the recipe that a run has stored."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from llmforge.cli import options
from llmforge.cli.common import echo, run_root

if TYPE_CHECKING:
    from llmforge.rundir import RunDirectory, RunRecord

ProcessesPerNode = Annotated[
    int | None,
    options.option(
        "--nproc-per-node", metavar="N", help="Train as N processes on this machine.", min=1
    ),
]


def resume(
    run: options.Run,
    nproc_per_node: ProcessesPerNode = None,
    root: options.Root = None,
) -> None:
    """Train a run on with the recipe stored in it, as the command that started it would.

    Exit codes are those of 'forge train'.
    """
    from llmforge.cli.train import train
    from llmforge.rundir import read_record

    directory = stored_run(root, run)
    train(
        recipe=str(directory.recipe),
        assignments=own_place(directory, same_id=True),
        nproc_per_node=nproc_per_node or _processes(read_record(directory)),
    )


def clone(
    run: options.Run,
    assignments: options.Assignments = None,
    dry_run: options.DryRun = False,
    output: options.Output = None,
    force: options.Force = False,
    nproc_per_node: ProcessesPerNode = None,
    root: options.Root = None,
) -> None:
    """Train a new run with the recipe of another one and what --set changes in it.

    With --output the new recipe is written to a file instead, and nothing is trained.
    """
    from llmforge.cli.train import train
    from llmforge.errors import UsageError
    from llmforge.recipe import load_recipe
    from llmforge.run.plan import make_plan

    directory = stored_run(root, run)
    given = [*own_place(directory, same_id=False), *(assignments or ())]
    plan = make_plan(load_recipe(directory.recipe, overrides=given))
    if output is not None:
        _write_recipe(plan.recipe.tables, output, force=force)
        echo(f"{output}: trains as {plan.run_id}")
        return
    if plan.run_id == directory.id:
        raise UsageError(
            f"the recipe is that of {directory.id} still, and would be the same run",
            remedy="change a key that matters with --set, for example --set run.seed=1; "
            f"'forge runs resume {directory.id}' trains this one on",
        )
    train(
        recipe=str(directory.recipe),
        assignments=given,
        dry_run=dry_run,
        nproc_per_node=nproc_per_node,
    )


def stored_run(root: Path | None, run: str) -> RunDirectory:
    """Return a run that has its recipe.

    Raises:
        RunError: there is no such run, or its recipe is not here.
    """
    from llmforge.errors import RunError
    from llmforge.rundir import find_run

    directory = find_run(run_root(root), run)
    if not directory.recipe.exists():
        raise RunError(
            f"{directory.recipe} is not there, so nothing says how the run was trained",
            remedy=f"'forge runs pull {directory.id}' fetches it from storage",
        )
    return directory


def own_place(directory: RunDirectory, *, same_id: bool) -> list[str]:
    """Return what ``--set`` has to say so that the stored recipe is trained where the run is.

    Args:
        directory: the run.
        same_id: as this very run, rather than as one named after its recipe.
    """
    from llmforge.recipe import load_recipe
    from llmforge.run.plan import make_plan

    given = [f"run.root={json.dumps(str(directory.root))}"]
    plan = make_plan(load_recipe(directory.recipe, overrides=given))
    if same_id and plan.run_id != directory.id:
        return [*given, f"run.id={json.dumps(directory.id)}"]
    if not same_id and plan.recipe.run.id is not None:
        copied = f"{plan.recipe.run.id}-{plan.identity.hash[:6]}"
        return [*given, f"run.id={json.dumps(copied)}"]
    return given


def _processes(record: RunRecord) -> int | None:
    """Return the ``--nproc-per-node`` of the command that trained a run last, if it had one."""
    command = " ".join(map(str, record.provenance.get("command") or ()))
    found = re.search(r" --nproc-per-node[ =](\d+)", command)
    return int(found[1]) if found and "--nnodes" not in command else None


def _write_recipe(tables: Any, output: Path, *, force: bool) -> None:
    import tomli_w

    from llmforge.errors import UsageError

    if output.exists() and not force:
        raise UsageError(f"{output} exists already", remedy="--force overwrites it")
    try:
        output.write_text(tomli_w.dumps(tables), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{output} cannot be written: {error.strerror}") from error
