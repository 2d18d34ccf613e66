"""``forge uploads``: what of a run is in storage, and getting the rest there."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Annotated

import typer

from llmforge.cli import options
from llmforge.cli.common import (
    console,
    echo,
    emit_json,
    run_or_newest,
    run_root,
)

if TYPE_CHECKING:
    from llmforge.recipe import Recipe
    from llmforge.remote import RemoteRun
    from llmforge.rundir import RunDirectory
    from llmforge.rundir.uploads import UploadRecord

app = typer.Typer(help="See and manage uploads to storage.", no_args_is_help=True)

_BROKEN_OFF = "broken off"
_LOST = "it was committed, and storage does not have it any more"

Url = Annotated[
    str | None,
    typer.Option("--storage", metavar="URL", help="Another place than the recipe's storage.url."),
]
Timeout = Annotated[
    float | None,
    typer.Option("--timeout", metavar="S", help="Seconds; else the recipe's close_timeout."),
]


@app.command()
def status(
    run: options.RunOrNewest = None, as_json: options.AsJson = False, root: options.Root = None
) -> None:
    """Show how the upload of each checkpoint stands, as this machine knows it."""
    from dataclasses import asdict

    from llmforge.cli.render import Column, age_text, print_table

    directory = run_or_newest(root, run)
    records = _records(directory)
    found = [records[step] for step in sorted(records)]
    at_work = _at_work(directory)
    if as_json:
        emit_json([{**asdict(item), "state": _state(item, at_work=at_work)} for item in found])
        return
    if not found:
        echo(f"{directory.id} has no checkpoint to upload")
        return
    rows = [
        (
            str(item.step),
            _state(item, at_work=at_work),
            str(item.tries),
            age_text(item.updated) if item.updated else "",
            _told(item, at_work=at_work),
        )
        for item in found
    ]
    columns = (
        Column("step", right=True),
        Column("state"),
        Column("tries", right=True),
        Column("updated"),
        Column("what", fold=True),
    )
    print_table(console(), columns, rows)


@app.command("list")
def list_(
    run: options.RunOrNewest = None,
    url: Url = None,
    as_json: options.AsJson = False,
    root: options.Root = None,
) -> None:
    """List the checkpoints of a run that are committed in storage."""
    from dataclasses import asdict
    from datetime import datetime

    from llmforge.checkpoint import size_text
    from llmforge.cli.render import Column, print_table

    remote = _remote(run_or_newest(root, run), url)
    commits = remote.commits()
    if as_json:
        emit_json([asdict(commit) for commit in commits])
        return
    echo(remote.url)
    if not commits:
        echo("no checkpoint is committed there")
        return
    rows = [
        (
            str(commit.step),
            "best" if commit.is_best else "",
            size_text(commit.size),
            commit.archive,
            f"{datetime.fromisoformat(commit.created).astimezone():%Y-%m-%d %H:%M:%S}",
        )
        for commit in commits
    ]
    columns = (
        Column("step", right=True),
        Column("mark"),
        Column("size", right=True),
        Column("archive"),
        Column("committed"),
    )
    print_table(console(), columns, rows)


@app.command()
def push(
    checkpoint: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="RUN@best, RUN@last, RUN@STEP or a path.")
    ],
    url: Url = None,
    timeout: Timeout = None,
    root: options.Root = None,
) -> None:
    """Upload one checkpoint."""
    from llmforge.generation.address import locate
    from llmforge.rundir import RunDirectory

    found = locate(checkpoint, root=run_root(root))
    directory = RunDirectory(found.path.absolute().parents[1])
    push_now(directory, _recipe(directory, url), timeout=timeout, steps=[found.step])


@app.command("push-all")
def push_all(
    run: options.Run, url: Url = None, timeout: Timeout = None, root: options.Root = None
) -> None:
    """Upload every checkpoint of a run that is not in storage yet, and its small files."""
    directory = run_or_newest(root, run)
    push_now(directory, _recipe(directory, url), timeout=timeout, steps=None)


@app.command()
def retry(
    run: options.Run, url: Url = None, timeout: Timeout = None, root: options.Root = None
) -> None:
    """Try the failed uploads of a run again, now, and those that were broken off."""
    directory = run_or_newest(root, run)
    records, at_work = _records(directory).values(), _at_work(directory)
    states = {record.step: _state(record, at_work=at_work) for record in records}
    failed = [step for step, state in states.items() if state in ("failed", _BROKEN_OFF)]
    if failed:
        push_now(directory, _recipe(directory, url), timeout=timeout, steps=failed)
        return
    echo(f"no upload of {directory.id} has failed")
    if waiting := sum(state == "queued" for state in states.values()):
        echo(f"{waiting} wait to be uploaded: forge uploads push-all {directory.id}")


@app.command()
def verify(
    run: options.RunOrNewest = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read everything back and compare the hashes.")
    ] = False,
    url: Url = None,
    as_json: options.AsJson = False,
    root: options.Root = None,
) -> None:
    """Check the checkpoints of a run that are committed in storage, and those that were; exit
    code 1 when one is not sound."""
    from llmforge.courier import committed_uploads

    directory = run_or_newest(root, run)
    remote = _remote(directory, url)
    found = {step: [_LOST] for step in committed_uploads(directory, remote.url)}
    found |= {commit.step: remote.verify(commit, deep=deep) for commit in remote.commits()}
    found = {step: found[step] for step in sorted(found)}
    if as_json:
        emit_json([{"step": step, "problems": wrong} for step, wrong in found.items()])
    else:
        echo(remote.url)
        for step, wrong in found.items():
            echo(f"step {step:>8}  {'damaged: ' + '; '.join(wrong) if wrong else 'ok'}")
        if not found:
            echo("no checkpoint is committed there")
    if any(found.values()):
        if not as_json:
            echo(f"what is here is sent again by: forge uploads push {directory.id}@STEP")
        raise typer.Exit(1)


def _records(directory: RunDirectory) -> dict[int, UploadRecord]:
    """Return the records of the run's uploads, with one for each that nobody took up yet."""
    from llmforge.courier import pending_uploads
    from llmforge.rundir.uploads import UploadRecord, read_uploads

    records = read_uploads(directory)
    if _load(directory, None).storage.url is not None:
        for item in pending_uploads(directory, _remote(directory, None).url):
            records.setdefault(item.step, UploadRecord(item.step, size=item.manifest.size))
    return records


def _at_work(directory: RunDirectory) -> bool:
    from llmforge.courier import has_courier

    return has_courier(directory)


def _state(record: UploadRecord, *, at_work: bool) -> str:
    from llmforge.courier import BEGUN

    return _BROKEN_OFF if record.state in BEGUN and not at_work else record.state


def _told(record: UploadRecord, *, at_work: bool) -> str:
    from llmforge.checkpoint import size_text
    from llmforge.run.reporting.upload_status import upload_text

    if _state(record, at_work=at_work) == _BROKEN_OFF:
        done = f"{size_text(record.sent)} of {size_text(record.size)}"
        return f"broken off while {record.state}, at {done}; the next start or 'retry' continues"
    return upload_text(record)


def push_now(
    directory: RunDirectory,
    recipe: Recipe,
    *,
    timeout: float | None,
    steps: Collection[int] | None,
) -> None:
    """Upload checkpoints, telling a line per state, and the run's small files.

    Args:
        directory: the run.
        recipe: says where its storage is.
        timeout: seconds; the recipe's ``storage.close_timeout`` when None.
        steps: these only; all that are not in storage when None.

    Raises:
        StorageError: not all of it arrived.
    """
    from llmforge.courier.upload_now import push as push_here
    from llmforge.errors import StorageError
    from llmforge.run.reporting.upload_status import upload_text

    remote = _place(directory, recipe)
    seconds = recipe.storage.close_timeout if timeout is None else timeout

    def tell(record: UploadRecord) -> None:
        echo(f"step {record.step}: {upload_text(record)}")

    missing = push_here(
        directory,
        remote,
        archive=recipe.storage.archive,
        steps=steps,
        seconds=seconds,
        on_change=tell,
        on_error=lambda message: echo(message, err=True),
    )
    if missing:
        raise StorageError(
            f"not in storage after {seconds:g} s: step {', '.join(map(str, missing))}",
            remedy=f"nothing here was deleted; to continue: forge uploads push-all {directory.id}",
        )
    echo(f"everything asked for is in {remote.url}")


def _recipe(directory: RunDirectory, url: str | None) -> Recipe:
    """Return the run's recipe with its storage, or with ``url`` instead.

    Raises:
        UsageError: neither says where the storage is.
    """
    from llmforge.errors import UsageError

    recipe = _load(directory, url)
    if recipe.storage.url is None:
        raise UsageError(
            f"the recipe of {directory.id} has no storage.url",
            remedy="say where with --storage URL, for example s3://bucket/runs",
        )
    return recipe


def _load(directory: RunDirectory, url: str | None) -> Recipe:
    from llmforge.recipe import Override, load_recipe

    overrides = [] if url is None else [Override(("storage", "url"), url, origin="--storage")]
    return load_recipe(directory.recipe, overrides=overrides)


def _remote(directory: RunDirectory, url: str | None) -> RemoteRun:
    return _place(directory, _recipe(directory, url))


def _place(directory: RunDirectory, recipe: Recipe) -> RemoteRun:
    from llmforge.remote import recipe_remote
    from llmforge.rundir import read_record

    return recipe_remote(recipe, directory.id, attempt=read_record(directory).attempt)
