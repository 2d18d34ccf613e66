"""``forge checkpoints``: what a run has saved, what is in it, and what of it shall stay."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmforge.cli import options
from llmforge.cli.checkpoints_plot import plot
from llmforge.cli.checkpoints_prune import prune
from llmforge.cli.checkpoints_verify import verify
from llmforge.cli.common import echo, run_or_newest
from llmforge.cli.export import export

if TYPE_CHECKING:
    from llmforge.checkpoint import Checkpoint

app = typer.Typer(no_args_is_help=True, help="List, inspect, compare, verify and keep checkpoints.")

Address = Annotated[
    str, options.argument("CHECKPOINT", "RUN, RUN@best, RUN@last, RUN@STEP or a path.")
]


@app.command("list")
def list_saved(
    run: options.RunOrNewest = None,
    verify_files: Annotated[
        bool, typer.Option("--verify", help="Read and hash every file.")
    ] = False,
    storage: Annotated[
        str | None,
        options.option("--storage", metavar="URL", help="What storage at URL has of RUN instead."),
    ] = None,
    as_json: options.AsJson = False,
    root: options.Root = None,
) -> None:
    """List the checkpoints of a run, damaged ones too."""
    import dataclasses

    from llmforge.cli.checkpoint_views import print_checkpoints
    from llmforge.cli.common import console, emit_json
    from llmforge.insight.inventory import checkpoints_of

    if storage is not None:
        _list_stored(root, run, storage, verify=verify_files, as_json=as_json)
        return
    directory = run_or_newest(root, run)
    found = checkpoints_of(directory, hashes=verify_files)
    if as_json:
        emit_json([dataclasses.asdict(info) for info in found])
    elif found:
        print_checkpoints(console(), found)
    else:
        echo(f"{directory.id} has no checkpoint yet")


@app.command()
def show(
    checkpoint: Annotated[
        str | None,
        options.argument(
            "CHECKPOINT", "RUN, RUN@best, RUN@last, RUN@STEP or a path; absent: the newest run."
        ),
    ] = None,
    tensors: Annotated[
        bool, typer.Option("--tensors", help="Read the weights: norm, mean, NaN and infinities.")
    ] = False,
    as_json: options.AsJson = False,
    root: options.Root = None,
) -> None:
    """Show everything that is known of one checkpoint.

    Of RUN it is the best one, else the last. Mean, spread and trend are of the training loss over
    the last 50 logged steps.
    """
    import dataclasses

    from llmforge.cli.checkpoint_views import print_facts
    from llmforge.cli.common import console, emit_json
    from llmforge.insight.checkpoint_facts import checkpoint_facts

    found = _located(checkpoint or run_or_newest(root, None).id, root)
    facts = checkpoint_facts(found)
    statistics = None
    if tensors:
        from llmforge.insight.tensor_statistics import stored_weights, tensor_statistics

        statistics = list(tensor_statistics(stored_weights(found.path)))
    if not as_json:
        print_facts(console(), facts, statistics)
        return
    known = dataclasses.asdict(facts)
    if statistics is not None:
        known["tensors"] = [dataclasses.asdict(item) for item in statistics]
    emit_json(known)


@app.command()
def compare(
    checkpoints: Annotated[
        list[str],
        options.argument("CHECKPOINT", "Two or more: RUN, RUN@best, RUN@STEP or a path."),
    ],
    tensors: Annotated[
        bool, typer.Option("--tensors", help="A line for each tensor, not for each layer.")
    ] = False,
    as_json: options.AsJson = False,
    root: options.Root = None,
) -> None:
    """Compare checkpoints with the first: metrics, recipes, and how far each layer has moved.

    The distance of a layer is the L2 norm of the difference, as a share of the norm it had in the
    first checkpoint. Of models that differ, what both have is compared.
    """
    import dataclasses

    from llmforge.cli.checkpoint_views import print_comparison
    from llmforge.cli.common import console, emit_json
    from llmforge.errors import UsageError
    from llmforge.insight.checkpoint_comparison import compare_checkpoints

    if len(checkpoints) < 2:
        raise UsageError(
            "two checkpoints are needed",
            remedy=f"forge checkpoints compare {checkpoints[0]} RUN@STEP",
        )
    located = [_located(address, root) for address in checkpoints]
    found = compare_checkpoints(located)
    if as_json:
        paths = [str(item.path) for item in located]
        emit_json({"checkpoints": paths, **dataclasses.asdict(found)})
    else:
        print_comparison(console(), _names(located), found, by_tensor=tensors)


app.command()(plot)
app.command()(verify)


@app.command()
def pin(checkpoint: Address, root: options.Root = None) -> None:
    """Keep a checkpoint whatever checkpoint.keep_last and keep_best say."""
    _set_pin(checkpoint, root, pinned=True)


@app.command()
def unpin(checkpoint: Address, root: options.Root = None) -> None:
    """Let retention treat a pinned checkpoint like any other."""
    _set_pin(checkpoint, root, pinned=False)


app.command()(prune)
app.command()(export)


def _set_pin(address: str, root: Path | None, *, pinned: bool) -> None:
    from llmforge import checkpoint
    from llmforge.errors import CheckpointError
    from llmforge.rundir.atomic import write_remedy

    found = _located(address, root)
    try:
        (checkpoint.pin if pinned else checkpoint.unpin)(found.path)
    except OSError as error:
        raise CheckpointError(
            f"{found.path} cannot be written: {error.strerror}",
            remedy=write_remedy(error, str(found.path)),
        ) from error
    echo(f"{found.path} {'stays until it is unpinned' if pinned else 'is not pinned'}")


def _located(address: str, root: Path | None) -> Checkpoint:
    from llmforge.cli.common import error_console, run_root
    from llmforge.generation import locate

    return locate(address, root=run_root(root), say=error_console().print)


def _names(checkpoints: list[Checkpoint]) -> list[str]:
    """Return a short name for each: its step, with the run where there are several runs."""
    from llmforge.insight.inventory import run_id_of

    runs = [run_id_of(item.path) for item in checkpoints]
    if len(set(runs)) == 1 and runs[0]:
        return [f"step {item.step:,}" for item in checkpoints]
    return [
        f"{run}@{item.step}" if run else str(item.path)
        for run, item in zip(runs, checkpoints, strict=True)
    ]


def _list_stored(
    root: Path | None, run: str | None, url: str, *, verify: bool, as_json: bool
) -> None:
    """List what is committed of a run in the storage at ``url``.

    Raises:
        UsageError: no run is named, or files shall be verified that are not here.
    """
    import dataclasses

    from llmforge.cli.checkpoint_views import print_checkpoints
    from llmforge.cli.common import console, emit_json
    from llmforge.cli.runs_storage import stored_run
    from llmforge.errors import UsageError
    from llmforge.insight.inventory import stored_checkpoints

    if run is None:
        raise UsageError("name a run", remedy=f"'forge runs list --storage {url}' shows them")
    if verify:
        raise UsageError(
            "--verify is of checkpoints that are here",
            remedy="'forge uploads verify RUN --deep' reads those in storage",
        )
    remote = stored_run(root, run, url)
    found = stored_checkpoints(remote.commits())
    if as_json:
        emit_json(
            [{**dataclasses.asdict(info), "path": f"{remote.url}/{info.path}"} for info in found]
        )
        return
    echo(remote.url)
    if found:
        print_checkpoints(console(), found)
    else:
        echo("no checkpoint is committed there")
