"""``forge launch``: job files that train a recipe on a cluster."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from llmforge.cli import shortcuts
from llmforge.cli.common import echo
from llmforge.errors import UsageError

app = typer.Typer(
    no_args_is_help=True, help="Write a job file that trains a recipe on Slurm or Kubernetes."
)

Source = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A recipe file or the name of a shipped recipe.")
]
Nodes = Annotated[int, typer.Option("--nodes", min=1, help="Machines.")]
Gpus = Annotated[
    int, typer.Option("--gpus-per-node", min=0, help="GPUs of each, with a process for each.")
]
JobName = Annotated[
    str | None,
    typer.Option("--job-name", help="Name of the job; else the recipe's.", show_default=False),
]
Grace = Annotated[
    int, typer.Option("--grace", min=1, help="Seconds to save in before the job is ended.")
]
Setup = Annotated[
    list[str] | None,
    typer.Option(
        "--setup",
        metavar="LINE",
        help="Shell line to run first, like 'module load cuda'. Repeatable.",
        show_default=False,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="Write it there.", show_default=False),
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")]


def _text_option(name: str, help: str) -> typer.models.OptionInfo:
    found: typer.models.OptionInfo = typer.Option(name, help=help, show_default=False)
    return found


@app.callback()
def group() -> None:
    """Hold the commands below."""


@app.command()
def slurm(
    recipe: Source,
    nodes: Nodes = 1,
    gpus_per_node: Gpus = 1,
    time: Annotated[str | None, _text_option("--time", "Time limit, like 24:00:00.")] = None,
    partition: Annotated[str | None, _text_option("--partition", "Partition.")] = None,
    account: Annotated[str | None, _text_option("--account", "Account to charge.")] = None,
    cpus_per_task: Annotated[
        int | None, typer.Option("--cpus-per-task", min=1, help="Cores of each process.")
    ] = None,
    memory: Annotated[
        str | None, _text_option("--memory", "Host memory of each machine, like 200G.")
    ] = None,
    job_name: JobName = None,
    grace: Grace = 300,
    setup: Setup = None,
    profile: shortcuts.Profile = None,
    assignments: shortcuts.Assignments = None,
    output: Output = None,
    force: Force = False,
) -> None:
    """Write a batch script for sbatch; interrupted, it saves and goes back into the queue."""
    from llmforge.clusters.job import make_job
    from llmforge.clusters.slurm import batch_script

    job = make_job(
        recipe,
        profile=profile,
        assignments=assignments or (),
        name=job_name,
        nodes=nodes,
        gpus_per_node=gpus_per_node,
        grace=grace,
        setup=setup or (),
    )
    directives = {
        "cpus-per-task": None if cpus_per_task is None else str(cpus_per_task),
        "mem": memory,
        "time": time,
        "partition": partition,
        "account": account,
    }
    _write(batch_script(job, directives=directives), output, force=force, then="sbatch")


@app.command()
def k8s(
    recipe: Source,
    image: Annotated[str, typer.Option("--image", help="Container image with llmforge in it.")],
    nodes: Nodes = 1,
    gpus_per_node: Gpus = 1,
    claim: Annotated[
        str | None,
        _text_option("--claim", "Volume claim that all pods share, for runs and cache."),
    ] = None,
    secrets: Annotated[
        list[str] | None,
        typer.Option(
            "--secret",
            metavar="NAME",
            help="Secret whose entries become environment variables. Repeatable.",
            show_default=False,
        ),
    ] = None,
    retries: Annotated[
        int, typer.Option("--retries", min=0, help="Failed pods that are started again.")
    ] = 3,
    job_name: JobName = None,
    grace: Grace = 300,
    setup: Setup = None,
    profile: shortcuts.Profile = None,
    assignments: shortcuts.Assignments = None,
    output: Output = None,
    force: Force = False,
) -> None:
    """Write a manifest for kubectl: an Indexed Job whose pods save and come back."""
    from llmforge.clusters.job import make_job
    from llmforge.clusters.kubernetes import Pods, manifest
    from llmforge.recipe import parse_set
    from llmforge.recipe.show import as_text

    job = make_job(
        recipe,
        profile=profile,
        assignments=assignments or (),
        name=job_name,
        nodes=nodes,
        gpus_per_node=gpus_per_node,
        grace=grace,
        setup=setup or (),
    )
    if claim is None and job.recipe.storage.url is None:
        raise UsageError(
            "checkpoints would end with their pod",
            remedy="give --claim NAME, a volume that outlives it, or set storage.url",
        )
    if claim is None and nodes > 1:
        raise UsageError(
            f"{nodes} pods need one run directory",
            remedy="give --claim NAME, a volume that can be mounted by many at once",
        )
    overrides = [parse_set(text) for text in assignments or ()]
    resolved = as_text(recipe, profile=profile, overrides=overrides, defaults=False)
    pods = Pods(image=image, claim=claim, secrets=secrets or (), retries=retries)
    text = manifest(job, pods, recipe=resolved)
    _write(text, output, force=force, then="kubectl apply -f")


def _write(text: str, output: Path | None, *, force: bool, then: str) -> None:
    """Print ``text`` or write it to ``output``, and say what to do with it.

    Raises:
        UsageError: the file exists, or cannot be written.
    """
    if output is None:
        echo(text, nl=False)
        return
    if output.exists() and not force:
        raise UsageError(f"{output} exists", remedy="choose another name, or add --force")
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{output} cannot be written: {error.strerror}") from error
    echo(f"{output}: start it with  {then} {shlex.quote(str(output))}")
