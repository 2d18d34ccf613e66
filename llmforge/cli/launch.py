"""``forge launch``: job files that train a recipe on a cluster."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from llmforge.cli import options
from llmforge.cli.common import echo
from llmforge.errors import UsageError

app = typer.Typer(
    no_args_is_help=True, help="Write a job file that trains a recipe on Slurm or Kubernetes."
)

Nodes = Annotated[int, typer.Option("--nodes", min=1, help="Machines.")]
Gpus = Annotated[
    int, typer.Option("--gpus-per-node", min=0, help="GPUs of each, with a process for each.")
]
JobName = Annotated[
    str | None, options.option("--job-name", help="Name of the job; else the recipe's.")
]
Grace = Annotated[
    int, typer.Option("--grace", min=1, help="Seconds to save in before the job is ended.")
]
Setup = Annotated[
    list[str] | None,
    options.option(
        "--setup",
        metavar="LINE",
        help="Shell line to run first, like 'module load cuda'. Repeatable.",
    ),
]

# Of Slurm
Time = Annotated[str | None, options.option("--time", help="Time limit, like 24:00:00.")]
Partition = Annotated[str | None, options.option("--partition", help="Partition.")]
Account = Annotated[str | None, options.option("--account", help="Account to charge.")]
Cores = Annotated[
    int | None, options.option("--cpus-per-task", min=1, help="Cores of each process.")
]
Memory = Annotated[
    str | None, options.option("--memory", help="Host memory of each machine, like 200G.")
]

# Of Kubernetes
Image = Annotated[str, typer.Option("--image", help="Container image with llmforge in it.")]
Claim = Annotated[
    str | None,
    options.option("--claim", help="Volume claim that all pods share, for runs and cache."),
]
Secrets = Annotated[
    list[str] | None,
    options.option(
        "--secret",
        metavar="NAME",
        help="Secret whose entries become environment variables. Repeatable.",
    ),
]
Retries = Annotated[
    int, typer.Option("--retries", min=0, help="Failed pods that are started again.")
]


@app.callback()
def group() -> None:
    """Hold the commands below."""


@app.command()
def slurm(
    recipe: options.Recipe,
    nodes: Nodes = 1,
    gpus_per_node: Gpus = 1,
    time: Time = None,
    partition: Partition = None,
    account: Account = None,
    cpus_per_task: Cores = None,
    memory: Memory = None,
    job_name: JobName = None,
    grace: Grace = 300,
    setup: Setup = None,
    profile: options.Profile = None,
    assignments: options.Assignments = None,
    output: options.Output = None,
    force: options.Force = False,
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
    recipe: options.Recipe,
    image: Image,
    nodes: Nodes = 1,
    gpus_per_node: Gpus = 1,
    claim: Claim = None,
    secrets: Secrets = None,
    retries: Retries = 3,
    job_name: JobName = None,
    grace: Grace = 300,
    setup: Setup = None,
    profile: options.Profile = None,
    assignments: options.Assignments = None,
    output: options.Output = None,
    force: options.Force = False,
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
    _require_volume(claim, nodes=nodes, storage=job.recipe.storage.url)
    overrides = [parse_set(text) for text in assignments or ()]
    resolved = as_text(recipe, profile=profile, overrides=overrides, defaults=False)
    pods = Pods(image=image, claim=claim, secrets=secrets or (), retries=retries)
    text = manifest(job, pods, recipe=resolved)
    _write(text, output, force=force, then="kubectl apply -f")


def _require_volume(claim: str | None, *, nodes: int, storage: str | None) -> None:
    """Refuse pods whose checkpoints nobody could find again.

    Raises:
        UsageError: there is no shared volume where one is needed.
    """
    if claim is not None:
        return
    if storage is None:
        raise UsageError(
            "checkpoints would end with their pod",
            remedy="give --claim NAME, a volume that outlives it, or set storage.url",
        )
    if nodes > 1:
        raise UsageError(
            f"{nodes} pods need one run directory",
            remedy="give --claim NAME, a volume that can be mounted by many at once",
        )


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
