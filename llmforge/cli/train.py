"""``forge train``: train a recipe, resume it, or say that it is done."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from llmforge.cli import options
from llmforge.cli.common import echo
from llmforge.run_root import root_option

if TYPE_CHECKING:
    from llmforge.api import TrainResult
    from llmforge.distributed import Team
    from llmforge.distributed.launch import Launch
    from llmforge.run.plan import Plan
    from llmforge.run.signals import StopSignals
    from llmforge.rundir import RunDirectory

_START = "This start"
_PROCESSES = "Several processes"

Recipe = Annotated[
    str | None, options.argument("RECIPE", "A recipe file, or the name of a shipped recipe.")
]
Extend = Annotated[
    str | None,
    options.option(
        "--extend",
        metavar="STEP",
        help="Continue past the planned end to this step, or to '3 epochs'.",
        panel=_START,
    ),
]
Resume = Annotated[
    str | None,
    options.option(
        "--resume",
        metavar="CHECKPOINT",
        help="Go back to a checkpoint of the run: RUN@STEP or a path.",
        panel=_START,
    ),
]
AllowDataChange = Annotated[
    bool,
    options.option("--allow-data-change", help="Continue although the data changed.", panel=_START),
]
TraceSteps = Annotated[
    str | None,
    options.option(
        "--trace-steps",
        metavar="FIRST:LAST",
        help="Trace these steps, counted from 1: a timeline, and where the time goes.",
        panel=_START,
    ),
]
Verbose = Annotated[
    bool, options.option("--verbose", "-v", help="Show more of what happens.", panel=_START)
]
Quiet = Annotated[bool, options.option("--quiet", "-q", help="Show warnings only.", panel=_START)]

ProcessesPerNode = Annotated[
    int | None,
    options.option(
        "--nproc-per-node",
        metavar="N",
        help="Train as N processes on this machine.",
        panel=_PROCESSES,
        min=1,
    ),
]
Nodes = Annotated[
    int,
    options.option(
        "--nnodes",
        metavar="N",
        help="Number of machines; run the same command on each.",
        panel=_PROCESSES,
        min=1,
    ),
]
NodeRank = Annotated[
    int,
    options.option(
        "--node-rank",
        metavar="N",
        help="Index of this machine, from 0.",
        panel=_PROCESSES,
        min=0,
    ),
]
Rendezvous = Annotated[
    str | None,
    options.option(
        "--rdzv-endpoint",
        metavar="HOST:PORT",
        help="Where all machines meet: a free port of machine 0.",
        panel=_PROCESSES,
    ),
]
MaxRestarts = Annotated[
    int,
    options.option(
        "--max-restarts",
        metavar="N",
        help="Start all processes again when one fails, at most N times.",
        panel=_PROCESSES,
        min=0,
    ),
]


def train(
    recipe: Recipe = None,
    profile: options.Profile = None,
    assignments: options.Assignments = None,
    max_steps: options.MaxSteps = None,
    preset: options.Preset = None,
    samples: options.Samples = None,
    device: options.TrainDevice = None,
    project: options.Project = None,
    name: options.Name = None,
    extend: Extend = None,
    resume: Resume = None,
    allow_data_change: AllowDataChange = False,
    trace_steps: TraceSteps = None,
    verbose: Verbose = False,
    quiet: Quiet = False,
    dry_run: options.DryRun = False,
    nproc_per_node: ProcessesPerNode = None,
    nnodes: Nodes = 1,
    node_rank: NodeRank = 0,
    rdzv_endpoint: Rendezvous = None,
    max_restarts: MaxRestarts = 0,
) -> None:
    """Train RECIPE; the same command again resumes it, or says it is done.

    Exit codes: 0 done or already done, 1 failure, 2 bad recipe or usage, 3 the run is being
    trained by another process, 75 interrupted with the checkpoint saved.
    """
    from llmforge.distributed import Alone, find_place, join
    from llmforge.distributed.launched import die_with_launcher, under_launcher
    from llmforge.run.signals import StopSignals

    launching = (nproc_per_node is not None or nnodes > 1) and not under_launcher()
    with _stops_told(), StopSignals() as signals:
        die_with_launcher()
        team = Alone() if launching else join(find_place())
        with team.working(undisturbed=signals.deferred), _stops_told():
            source = recipe or _name_recipes()
            from llmforge.cli.finished_notes import what_decides
            from llmforge.recipe import load_recipe
            from llmforge.run.plan import make_plan
            from llmforge.run.trace_range import parse_range

            overrides = options.recipe_overrides(
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
            plan = make_plan(
                load_recipe(source, profile=profile, overrides=overrides),
                trace=parse_range(trace_steps),
            )
            decisive = what_decides(source)
            done = plan.completion() if resume is None else None
            if plan.trace is not None:
                plan.trace.require_unfinished(done, run_id=plan.run_id)
            if done is not None or dry_run:
                if team.place.is_leader:
                    _say_done(plan) if done is not None else _check(plan, nproc_per_node, nnodes)
                if done is not None and not launching:
                    _note_done(plan, decisive, team, preset=preset)
                return
            if launching:
                from llmforge.distributed.launch import Launch

                _launch(
                    Launch(
                        nproc_per_node=nproc_per_node or 1,
                        nnodes=nnodes,
                        node_rank=node_rank,
                        rdzv_endpoint=rdzv_endpoint,
                        max_restarts=max_restarts,
                    )
                )
            from llmforge.cli.logs import set_verbosity, show_logs
            from llmforge.progress import show_on

            set_verbosity(verbose=verbose, quiet=quiet)
            if quiet or not team.place.is_leader:
                show_on(None)
            if team.place.is_leader:
                show_logs(plan.recipe.run.log_level)
            _train(
                plan,
                resume=resume,
                allow_data_change=allow_data_change,
                signals=signals,
                team=team,
            )
            if resume is None:
                _note_done(plan, decisive, team, preset=preset)


def _train(
    plan: Plan, *, resume: str | None, allow_data_change: bool, signals: StopSignals, team: Team
) -> None:
    from llmforge.api import train as run_training
    from llmforge.run.reporting.reporter import make_reporter

    result = run_training(
        plan.recipe,
        resume=resume,
        allow_data_change=allow_data_change,
        reporter=make_reporter(),
        signals=signals,
        team=team,
        trace_steps=None if plan.trace is None else str(plan.trace),
    )
    if team.place.is_leader:
        _say_done(plan) if result.skipped else _summarise(result)
    team.leave()


def _launch(layout: Launch) -> NoReturn:
    """Run the command as several processes and end as they do.

    Raises:
        typer.Exit: always, with their exit code.
    """
    from llmforge.distributed.launch import launch

    raise typer.Exit(
        launch(sys.argv[1:], layout, say=lambda text: echo(f"forge: {text}", err=True))
    )


@contextlib.contextmanager
def _stops_told() -> Iterator[None]:
    """Let a signal before the run started end the command as an interruption."""
    from llmforge.run.signals import StopNow

    try:
        yield
    except StopNow as stop:
        from llmforge.errors import Interrupted

        raise Interrupted(f"stopped by {stop} before anything was started") from None


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
    from llmforge.cli.early.finished import finished_lines

    done = plan.completion()
    assert done is not None
    for line in finished_lines(_done_note(plan), asdict(done)):
        echo(line)
    if plan.recipe.storage.url is not None:
        _carry_on_uploads(plan, attempt=done.attempt)


def _done_note(plan: Plan) -> dict[str, str]:
    """Return what is said of a run that is done beside its completion."""
    root, url = root_option(plan.root), plan.recipe.storage.url
    place = "" if url is None or plan.directory.recipe.exists() else f" --storage {url}"
    return {
        "run_id": plan.run_id,
        "root": root,
        "fetch": "" if url is None else f"forge runs pull {plan.run_id}{place}{root}",
        "checkpoints": str(plan.directory.checkpoints),
        "export": str(plan.directory.export) if plan.recipe.export.at_end else "",
    }


def _note_done(
    plan: Plan, decisive: Mapping[str, Any] | None, team: Team, *, preset: str | None
) -> None:
    """Let the same command say at once that the run is done, if it is and no more is to be done."""
    from llmforge.cli.finished_notes import note_finished
    from llmforge.distributed import Alone
    from llmforge.distributed.launched import under_launcher

    looks_further = (
        plan.recipe.storage.url is not None  # at what is not uploaded yet
        or plan.recipe.train.extend_to is not None
        or preset is not None  # at a list of models
        or plan.trace is not None
    )
    alone = isinstance(team, Alone) and not under_launcher()
    if decisive is None or looks_further or not alone:
        return
    if plan.completion() is not None:
        note_finished(plan, _done_note(plan), decisive)


def _carry_on_uploads(plan: Plan, *, attempt: int) -> None:
    """Upload what of a completed run is not in storage yet; a failure is reported, no more."""
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
    echo(f"  not in storage: step {steps}; uploading it now, Ctrl-C leaves it for later")
    try:
        push_now(plan.directory, plan.recipe, timeout=None, steps=None)
    except ForgeError as error:
        echo(f"forge: {error}", err=True)
    except StopNow:
        echo(f"  later:          forge uploads push-all {plan.run_id}{root_option(plan.root)}")


def _check(plan: Plan, nproc_per_node: int | None, nnodes: int) -> None:
    """Look for what would keep the run from training here, and say what it is made of.

    Raises:
        RecipeError: with all that was found.
    """
    from llmforge.distributed import Place, find_place
    from llmforge.run.setup.preflight import require_all_ready

    place = find_place()
    if nproc_per_node is not None or nnodes > 1:
        local = nproc_per_node or 1
        place = Place(
            rank=nnodes * local - 1,
            local_rank=local - 1,  # the one that needs most GPUs
            world_size=nnodes * local,
            local_world_size=local,
        )
    require_all_ready(plan, place=place, notice=lambda text: typer.echo(f"forge: {text}", err=True))
    recipe = plan.recipe
    echo(f"{recipe.source}: ready to train as {plan.run_id}")
    echo(f"  directory: {plan.directory.path}")
    for kind, selected in recipe.selections.items():
        if selected:
            echo(f"  {kind}: {', '.join(item.name for item in selected)}")


def _summarise(result: TrainResult) -> None:
    """Print what came out of the run, and what to type next."""
    from llmforge.cli.common import console
    from llmforge.insight.compare import read_recipe
    from llmforge.insight.inventory import viewers_of
    from llmforge.interfaces import READING

    out = console()
    directory = result.run.directory
    best = result.metrics.get("best")
    out.print(f"\n{result.run.id}: {result.state} ({result.reason})", style="bold")
    if best:
        out.print(f"  best {best['metric']} {best['value']:.4f} at step {best['step']}")
    for name, value in result.metrics.items():
        if name.startswith("val/"):
            out.print(f"  final {name} {value:.4f}")
    for sample in (row for row in result.samples if "test" not in row):
        out.print()
        out.print(sample["prompt"], style="bold", end="\n" if sample.get("answers") else "")
        out.print(sample["text"])
    _show_tests(directory)
    out.print()
    out.print(f"  run:      {directory.path}")
    if directory.plots.is_dir():
        out.print(f"  curves:   {directory.plots}")
    if directory.export.is_dir():
        out.print(f"  export:   {directory.export}")
    tables = read_recipe(directory)
    for viewer in viewers_of(directory, tables).values():
        out.print(f"  view:     {viewer}")
    reads = tables.get("objective", {}).get("name") in READING
    next_command = "evaluate" if reads else "generate"
    where = root_option(directory.root)
    out.print(f"  {next_command}: forge {next_command} {result.run.id}{where}")


def _show_tests(directory: RunDirectory) -> None:
    """Print what the model responded to the recipe's tests, if it has any."""
    import json

    from llmforge.cli.common import console
    from llmforge.cli.generation_test_views import print_report

    try:
        report = json.loads(directory.examples.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    console().print()
    print_report(console(), report)
