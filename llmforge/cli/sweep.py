"""``forge sweep``: search the space of a recipe, look at sweeps, resume them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from llmforge.cli import options
from llmforge.cli.common import console, echo, emit_json, run_root, say_newest

if TYPE_CHECKING:
    from llmforge.sweeps.sweep import Sweep

_DEFAULT = "run"


class _RecipeFirst(TyperGroup):
    """A group whose first word may be a recipe: ``forge sweep RECIPE`` is ``sweep run RECIPE``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the left out word in."""
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            args = [_DEFAULT, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_RecipeFirst,
    help="Search the space of a recipe: forge sweep RECIPE starts or resumes it.",
    no_args_is_help=True,
)

Name = Annotated[str, typer.Argument(metavar="SWEEP", help="A sweep id, or the beginning of one.")]
NameOrNewest = Annotated[
    str | None,
    typer.Argument(
        metavar="SWEEP", help="A sweep id, or the beginning of one; absent: the newest sweep."
    ),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", "-w", min=1, help="Trials at once here; else sweep.workers."),
]


@app.command(_DEFAULT)
def run(
    recipe: options.Recipe,
    profile: options.Profile = None,
    assignments: options.Assignments = None,
    workers: Workers = None,
    max_trials: Annotated[
        int | None,
        typer.Option("--max-trials", "-n", min=1, help="sweep.max_trials; more extends a sweep."),
    ] = None,
    device: options.TrainDevice = None,
    dry_run: options.DryRun = False,
) -> None:
    """Try the points of a recipe's space; the same command again resumes it, or says it is done.

    The word `run` may be left out. The same command on another machine with the same sweep.study
    works on the same sweep. Exit codes: 0 done, 1 failure or more than sweep.max_failures, 2 bad
    recipe or usage, 75 interrupted with every trial saved.
    """
    from llmforge.recipe import Override
    from llmforge.sweeps.sweep import open_sweep

    given = options.recipe_overrides(
        recipe, profile=profile, assignments=assignments, device=device
    )
    if max_trials is not None:
        given.append(Override(("sweep", "max_trials"), max_trials, "--max-trials"))
    sweep = open_sweep(recipe, profile=profile, overrides=given)
    if dry_run:
        _require_ready(sweep)
        echo(f"{recipe}: ready to sweep as {sweep.id}")
        for dimension in sweep.space.dimensions:
            echo(f"  {dimension.key}: {_range_text(dimension)}")
        return
    _work(sweep, workers)


def _require_ready(sweep: Sweep) -> None:
    """Look for what would keep the trials from training here, with one of them.

    Raises:
        RecipeError: with all that was found.
    """
    from llmforge.distributed import Place
    from llmforge.recipe.trials import MOST_CORNERS
    from llmforge.run.plan import make_plan
    from llmforge.run.setup.preflight import require_all_ready

    point = next(iter(sweep.space.corners(at_most=MOST_CORNERS)))
    plan = make_plan(sweep.trial(sweep.space.with_ties(point)))
    require_all_ready(
        plan, place=Place(), notice=lambda text: typer.echo(f"forge: {text}", err=True)
    )


@app.command()
def resume(sweep: Name, workers: Workers = None, root: options.Root = None) -> None:
    """Continue with a sweep as it was last started."""
    _work(_load(sweep, root), workers)


@app.command()
def retry(
    sweep: Name,
    failed: Annotated[bool, typer.Option("--failed", help="Trials that failed.")] = False,
    pruned: Annotated[
        bool, typer.Option("--pruned", help="Pruned trials, this time to their end.")
    ] = False,
    workers: Workers = None,
    root: options.Root = None,
) -> None:
    """Run trials that ended again, from their checkpoints where they have one."""
    from llmforge.errors import UsageError

    if not (failed or pruned):
        raise UsageError("which trials?", remedy=f"forge sweep retry {sweep} --failed")
    loaded = _load(sweep, root)
    ledger = loaded.ledger()
    wanted = {"failed": failed, "pruned": pruned}
    chosen = [trial for trial in ledger.trials() if wanted.get(trial.state)]
    for trial in chosen:
        prunable = trial.last.prunable and trial.state == "failed"
        ledger.requeue(trial, prunable=prunable, reason="retried")
    echo(f"{loaded.id}: {len(chosen)} trials to run again")
    _work(loaded, workers)


@app.command()
def stop(sweep: Name, root: options.Root = None) -> None:
    """Stop a sweep's workers, on every machine; their trials save and wait."""
    loaded = _load(sweep, root)
    loaded.ledger().stop("stopped by forge sweep stop")
    echo(f"{loaded.id}: asked to stop; resume it with: forge sweep resume {loaded.id}")


@app.command("list")
def list_(as_json: options.AsJson = False, root: options.Root = None) -> None:
    """List sweeps."""
    from llmforge.cli.sweep_views import print_list, status_json
    from llmforge.sweeps.sweep import find_sweeps, load_sweep

    base = run_root(root)
    found = [load_sweep(directory) for directory in find_sweeps(base)]
    if as_json:
        emit_json([status_json(sweep) for sweep in found])
    elif found:
        print_list(console(), found)
    else:
        console().print(f"no sweeps in {base}")


@app.command()
def status(
    sweep: NameOrNewest = None, as_json: options.AsJson = False, root: options.Root = None
) -> None:
    """Show how far a sweep is, its best trial, and what to do next."""
    from llmforge.cli.sweep_views import print_status, status_json

    loaded = _load(sweep, root)
    if as_json:
        emit_json(status_json(loaded))
    else:
        print_status(console(), loaded)


@app.command()
def show(
    sweep: NameOrNewest = None, as_json: options.AsJson = False, root: options.Root = None
) -> None:
    """Show every trial of a sweep."""
    from llmforge.cli.sweep_views import print_trials
    from llmforge.sweeps.summary import as_row

    loaded = _load(sweep, root)
    trials = loaded.ledger().trials()
    if as_json:
        emit_json([as_row(trial, loaded.space) for trial in trials])
    else:
        print_trials(console(), loaded, trials)


@app.command()
def export(
    sweep: Name,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="A .csv or .json file.")
    ],
    root: options.Root = None,
) -> None:
    """Write every trial of a sweep as a table."""
    from llmforge.cli.sweep_views import write_table

    loaded = _load(sweep, root)
    write_table(output, loaded)
    echo(output)


def _load(text: str | None, root: Path | None) -> Sweep:
    from llmforge.sweeps.sweep import find_sweep, load_sweep, newest_sweep

    if text is not None:
        return load_sweep(find_sweep(run_root(root), text))
    newest = newest_sweep(run_root(root))
    say_newest("sweep", newest.id)
    return load_sweep(newest)


def _work(sweep: Sweep, workers: int | None) -> None:
    from llmforge.cli.sweep_views import print_end, progress
    from llmforge.run.signals import StopSignals
    from llmforge.sweeps.api import work

    count = workers or sweep.recipe.sweep.workers
    with StopSignals() as signals, signals.deferred():
        echo(f"{sweep.id}: {sweep.recipe.sweep.max_trials} trials, {count} at once")
        with progress(sweep) as show_trials:
            reason = work(sweep, workers=workers, signals=signals, show=show_trials)
    print_end(console(), sweep, reason)


def _range_text(dimension: Any) -> str:
    values = dimension.values()
    if values is not None:
        return ", ".join(str(value) for value in values[:12]) + (" ..." if len(values) > 12 else "")
    scale = " on a logarithmic scale" if dimension.log else ""
    return f"{dimension.low:g} to {dimension.high:g}{scale}"
