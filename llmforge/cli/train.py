"""``forge train``: train a recipe, go on with it, or say that it is done."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from llmforge.cli import shortcuts

if TYPE_CHECKING:
    from llmforge.api import TrainResult
    from llmforge.recipe import Recipe
    from llmforge.run.plan import Plan

_PANEL = "This start"


def _option(*names: str, help: str, metavar: str | None = None) -> Any:
    return typer.Option(
        *names, help=help, metavar=metavar, rich_help_panel=_PANEL, show_default=False
    )


def train(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE",
            help="A recipe file, or the name of a shipped recipe.",
            show_default=False,
        ),
    ] = None,
    profile: shortcuts.Profile = None,
    assignments: shortcuts.Assignments = None,
    max_steps: shortcuts.MaxSteps = None,
    preset: shortcuts.Preset = None,
    samples: shortcuts.Samples = None,
    device: shortcuts.Device = None,
    project: shortcuts.Project = None,
    name: shortcuts.Name = None,
    extend: Annotated[
        int | None,
        _option("--extend", metavar="STEP", help="Go on past the planned end."),
    ] = None,
    resume: Annotated[
        str | None,
        _option(
            "--resume",
            metavar="CHECKPOINT",
            help="Go back to a checkpoint of the run: RUN@STEP or a path.",
        ),
    ] = None,
    allow_data_change: Annotated[
        bool,
        _option("--allow-data-change", help="Go on although the data changed."),
    ] = False,
    verbose: Annotated[bool, _option("--verbose", "-v", help="Show more of what happens.")] = False,
    quiet: Annotated[bool, _option("--quiet", "-q", help="Show warnings only.")] = False,
    dry_run: Annotated[bool, _option("--dry-run", help="Check everything, train nothing.")] = False,
) -> None:
    """Train RECIPE; the same command again resumes it, or says it is done.

    Exit codes: 0 done or already done, 1 failure, 2 bad recipe or usage, 3 the run is being
    trained by another process, 75 interrupted with the checkpoint saved.
    """
    from llmforge.run.signals import StopNow, StopSignals

    with StopSignals() as signals:
        try:
            source = recipe or _name_recipes()
            from llmforge.api import train as run_training
            from llmforge.recipe import load_recipe
            from llmforge.run.plan import make_plan
            from llmforge.run.report import make_reporter

            overrides = shortcuts.overrides(
                source,
                profile=profile,
                assignments=assignments,
                max_steps=max_steps,
                preset=preset,
                samples=samples,
                device=device,
                project=project,
                name=name,
                extend=extend,
            )
            loaded = load_recipe(source, profile=profile, overrides=overrides)
            plan = make_plan(loaded)
            done = plan.completion() if resume is None else None
            if done is not None:
                _say_done(plan)
                return
            if dry_run:
                _describe(loaded, plan)
                return
            from llmforge.cli.logs import set_verbosity, show_logs

            set_verbosity(verbose=verbose, quiet=quiet)
            show_logs(loaded.run.log_level)
            result = run_training(
                loaded,
                resume=resume,
                allow_data_change=allow_data_change,
                reporter=make_reporter(),
                signals=signals,
            )
            if result.skipped:
                _say_done(plan)
            else:
                _summarise(result)
        except StopNow as stop:
            from llmforge.errors import Interrupted

            raise Interrupted(f"stopped by {stop} before anything was begun") from None


def _name_recipes() -> NoReturn:
    """Fail with the recipes there are.

    Raises:
        UsageError: always.
    """
    from llmforge.errors import UsageError
    from llmforge.recipe.shipped import shipped_names

    names = ", ".join(shipped_names())
    raise UsageError(
        f"which recipe? Shipped ones: {names}",
        remedy="for example: forge train wikitext_tiny; 'forge recipe list' describes them",
    )


def _say_done(plan: Plan) -> None:
    done = plan.completion()
    assert done is not None
    when = datetime.fromtimestamp(done.ended).strftime("%Y-%m-%d %H:%M")
    best = "" if done.best_loss is None else f", best validation loss {done.best_loss:.4f}"
    typer.echo(f"{plan.run_id}: already completed on {when} ({done.reason}{best})")
    if plan.directory.checkpoints.exists() or plan.recipe.storage.url is None:
        typer.echo(f"  use it:         {done.next_command}")
    else:
        place = "" if plan.directory.recipe.exists() else f" --storage {plan.recipe.storage.url}"
        typer.echo(f"  fetch it:       forge runs pull {plan.run_id}{place}")
    typer.echo(f"  train it anew:  forge runs clear {plan.run_id}")
    if plan.recipe.storage.url is not None:
        _carry_on_uploads(plan, attempt=done.attempt)


def _carry_on_uploads(plan: Plan, *, attempt: int) -> None:
    """Upload what of a completed run is not in storage yet; that it fails is only told."""
    from llmforge.cli.uploads import push_now
    from llmforge.courier import pending_uploads
    from llmforge.errors import ForgeError
    from llmforge.remote import recipe_remote
    from llmforge.run.signals import StopNow

    place = recipe_remote(plan.recipe, plan.run_id, attempt=attempt).url
    waiting = pending_uploads(plan.directory, place)
    if not waiting:
        return
    steps = ", ".join(str(item.step) for item in waiting)
    typer.echo(f"  not in storage: step {steps}; uploading it now, Ctrl-C leaves it for later")
    try:
        push_now(plan.directory, plan.recipe, timeout=None, steps=None)
    except ForgeError as error:
        typer.echo(f"forge: {error}", err=True)
    except StopNow:
        typer.echo(f"  later:          forge uploads push-all {plan.run_id}")


def _describe(recipe: Recipe, plan: Plan) -> None:
    typer.echo(f"{recipe.source}: ready to train as {plan.run_id}")
    typer.echo(f"  directory: {plan.directory.path}")
    for kind, selected in recipe.selections.items():
        if selected:
            typer.echo(f"  {kind}: {', '.join(item.name for item in selected)}")


def _summarise(result: TrainResult) -> None:
    """Print what came out of the run, and what to type next."""
    from llmforge.cli.common import console
    from llmforge.insight.compare import read_recipe
    from llmforge.insight.inventory import viewers_of

    out = console()
    directory = result.run.directory
    best = result.metrics.get("best")
    out.print(f"\n{result.run.id}: {result.state} ({result.reason})", style="bold")
    if best:
        out.print(f"  best {best['metric']} {best['value']:.4f} at step {best['step']}")
    for name in ("val/loss", "val/perplexity", "val/bits_per_byte"):
        if name in result.metrics:
            out.print(f"  final {name} {result.metrics[name]:.4f}")
    for sample in result.samples:
        out.print()
        out.print(sample["prompt"], style="bold", end="")
        out.print(sample["text"])
    out.print()
    out.print(f"  run:      {directory.path}")
    if directory.plots.is_dir():
        out.print(f"  curves:   {directory.plots}")
    for viewer in viewers_of(directory, read_recipe(directory)).values():
        out.print(f"  view:     {viewer}")
    out.print(f"  generate: forge generate {result.run.id}")
