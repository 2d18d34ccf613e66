"""``forge prove-resume``: kill a recipe's run at random instants, and show that nothing is lost."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmforge.cli import options
from llmforge.cli.common import console, echo

if TYPE_CHECKING:
    from llmforge.proof.certificate import Certificate, KilledRun
    from llmforge.proof.place import ProofDirectory
    from llmforge.proof.prove import Proof
    from llmforge.recipe import Recipe


def prove_resume(
    recipe: options.Recipe,
    kills: Annotated[
        int, typer.Option("--kills", metavar="N", min=1, help="How often to kill it.")
    ] = 5,
    seed: Annotated[
        int, typer.Option("--seed", metavar="S", help="Draws the instants of the kills.")
    ] = 0,
    profile: options.Profile = None,
    assignments: options.Assignments = None,
    output: Annotated[
        Path | None,
        options.option(
            "--output",
            "-o",
            metavar="FILE",
            help="Certificate; else .prove/RUN.json in the directory of all runs.",
        ),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the runs, to verify their files later.")
    ] = False,
    storage: Annotated[
        str | None,
        options.option(
            "--storage",
            metavar="URL",
            help="Upload below it; else to a folder beside the runs.",
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        options.option(
            "--tolerance",
            metavar="X",
            min=0,
            help="Relative; else 0 (bit for bit) on a CPU and 0.001 on a GPU.",
        ),
    ] = None,
) -> None:
    """Prove that RECIPE resumes exactly: kill its run, resume it, compare the result.

    It is trained once undisturbed, and once killed with SIGKILL at random instants of saving,
    uploading, evaluating and stepping, and resumed by the same command. Weights, optimizer state,
    trainer state, metrics, data order and samples of both runs are compared, and a certificate is
    written. Exit codes: 0 proved, 1 they differ or a run failed, 2 bad recipe or usage, 75 stopped.
    """
    from llmforge.proof.certificate import certificate_path, write_certificate
    from llmforge.proof.place import ProofDirectory
    from llmforge.proof.prove import Proof, Prover
    from llmforge.recipe import load_recipe
    from llmforge.run.plan import make_plan

    overrides = options.recipe_overrides(recipe, profile=profile, assignments=assignments)
    loaded = load_recipe(recipe, profile=profile, overrides=overrides)
    plan = make_plan(loaded)
    proof = Proof(
        source=recipe,
        profile=profile,
        changes=tuple(assignments or ()),
        kills=kills,
        seed=seed,
        tolerance=tolerance,
    )
    directory = ProofDirectory(plan.root, loaded, run_id=plan.run_id, storage=storage)
    path = output or certificate_path(plan.root, plan.run_id)
    _require_sense(loaded, path)
    with _stoppable() as check_stop, directory.opened():
        _say_what(proof, loaded, directory)
        prover = Prover(
            proof,
            loaded,
            run_id=plan.run_id,
            directory=directory,
            say=lambda text: echo(f"  {text}"),
            check_stop=check_stop,
        )
        certificate = prover.prove()
        if keep or certificate.verdict != "proved":
            directory.keep()
        else:
            certificate = certificate.without_directories()
        write_certificate(path, certificate)
    _report(certificate, path, directory)
    if certificate.verdict != "proved":
        raise typer.Exit(1)


@contextlib.contextmanager
def _stoppable() -> Iterator[Callable[[], None]]:
    """Let a signal end the proof, with nothing left running; yield what asks for one."""
    from llmforge.errors import Interrupted
    from llmforge.run.signals import StopNow, StopSignals

    try:
        with StopSignals() as signals:
            yield signals.check
    except StopNow as stop:
        raise Interrupted(
            f"stopped by {stop}; nothing is left running", remedy="the same command starts over"
        ) from None


def _require_sense(recipe: Recipe, path: Path) -> None:
    """Refuse what could only fail after all the training.

    Raises:
        UsageError: the recipe saves no checkpoint, or the certificate would be a directory.
    """
    from llmforge.errors import UsageError

    if not recipe.checkpoint.enabled:
        raise UsageError(
            f"{recipe.source} saves no checkpoint, so there is nothing to resume from",
            remedy="--set checkpoint.enabled=true",
        )
    if path.is_dir():
        raise UsageError(
            f"--output {path} is a directory", remedy=f"-o {path / 'certificate.json'}"
        )


def _say_what(proof: Proof, recipe: Recipe, directory: ProofDirectory) -> None:
    from llmforge.proof.certificate import counted

    profile = f", profile {proof.profile}" if proof.profile else ""
    echo(f"{proof.source}{profile}: {counted(proof.kills, 'kill')}, seed {proof.seed}")
    if recipe.space is not None:
        echo("  the recipe has a sweep: its base recipe is trained, not the trials")
    trackers = [item.name for item in recipe.selections.get("tracker", ())]
    offline = ", with their offline mode where they have one" if trackers else ""
    echo(f"  trackers: {', '.join(trackers) or 'none'}{offline}")
    instead = f", not {recipe.storage.url}" if recipe.storage.url else ""
    echo(f"  storage:  {directory.storage}{instead}")


def _report(certificate: Certificate, path: Path, directory: ProofDirectory) -> None:
    """Print what was compared, what differs first, and what came out."""
    from llmforge.cli.render import Column, print_table
    from llmforge.proof.certificate import counted

    out = console()
    for number, item in enumerate(certificate.killed, start=1):
        echo()
        if len(certificate.killed) > 1:
            echo(f"run {number}, {counted(len(item.kills), 'kill')}")
        if item.failure:
            echo(f"  {item.failure}")
            continue
        rows = [
            (found.name, found.result, str(found.count or ""), found.killed[:12])
            for found in item.comparisons
        ]
        columns = [
            Column("compared", right=False),
            Column("result", styles={"equal": "green", "close": "green", "differs": "bold red"}),
            Column("differences", right=True),
            Column("sha256"),
        ]
        print_table(out, columns, rows, indent=2)
        _show_differences(item)
    lost = certificate.lost
    echo()
    echo(f"{'proved' if certificate.verdict == 'proved' else 'NOT PROVED'}: {certificate}")
    echo(f"  cost of the kills: {counted(lost.steps, 'step')} computed again, {lost.seconds:.1f} s")
    echo(f"  certificate:       {path}")
    if certificate.reference.directory is not None:
        echo(f"  runs:              {directory.path}")


def _show_differences(run: KilledRun) -> None:
    """Print of each comparison its first difference and its largest one, in order of steps."""
    from llmforge.cli.render import Column, print_table

    differing = [item for item in run.comparisons if item.result == "differs"]
    found = [
        (item.name, difference) for item in differing for difference in item.first_and_largest()
    ]
    if not found:
        return
    found.sort(key=lambda entry: (entry[1].step is None, entry[1].step or 0))
    rows = [
        (
            "" if item.step is None else str(item.step),
            name,
            item.name,
            item.what,
            "" if item.largest is None else f"{item.largest:.3g}",
        )
        for name, item in found
    ]
    columns = [
        Column("step", right=True),
        Column("in"),
        Column("what", fold=True),
        Column("differs", fold=True),
        Column("by", right=True),
    ]
    echo()
    echo("  what differs first, and most")
    print_table(console(), columns, rows, indent=2)
    echo("  the certificate has more of each")
