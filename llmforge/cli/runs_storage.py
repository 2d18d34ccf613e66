"""``forge runs`` for runs in storage: listing them, fetching one, and telling of a clearing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmforge.cli import options
from llmforge.cli.common import console, echo, emit_json, run_root

if TYPE_CHECKING:
    from llmforge.remote import Commit, RemoteEntry, RemoteRun
    from llmforge.rundir import RunDirectory


def print_stored(url: str, *, as_json: bool) -> None:
    """Print the runs in the storage at ``url``."""
    from llmforge.checkpoint import size_text
    from llmforge.cli.render import STATE_STYLES, Column, age_text, number, print_table
    from llmforge.insight.summary import best_loss
    from llmforge.remote import list_runs

    entries = list_runs(url)
    if as_json:
        emit_json([_entry_json(entry) for entry in entries])
        return
    if not entries:
        echo(f"no runs in {url}")
        return
    rows = []
    for entry in entries:
        record = entry.record or {}
        loss = best_loss(record.get("metrics", {}))
        rows.append(
            (
                entry.run_id,
                _state(entry),
                str(record.get("step", "")),
                "" if loss is None else number(loss),
                str(len(entry.steps)),
                size_text(entry.size),
                age_text(float(record.get("heartbeat", {}).get("time", 0.0))),
            )
        )
    columns = (
        Column("run", fold=True),
        Column("state", styles=STATE_STYLES),
        Column("step", right=True),
        Column("best loss", right=True),
        Column("checkpoints", right=True),
        Column("size", right=True),
        Column("updated"),
    )
    print_table(console(), columns, rows)
    for entry in entries:
        if entry.problem:
            echo(f"{entry.run_id}: {entry.problem}", err=True)


def pull(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run in storage, or the beginning of its id.")
    ],
    url: Annotated[
        str | None,
        typer.Option("--storage", metavar="URL", help="Where it is; else its recipe's storage."),
    ] = None,
    which: Annotated[
        str,
        typer.Option(
            "--checkpoint", metavar="WHICH", help="best, last, a step, all or none of them."
        ),
    ] = "best",
    root: options.Root = None,
) -> None:
    """Fetch a run from storage: its record, metrics and plots, and a checkpoint."""
    from llmforge.checkpoint.format import step_name
    from llmforge.run.setup.resume_from_storage import fetch_mirrored
    from llmforge.rundir import RunDirectory, RunLock, write_completion

    remote = stored_run(root, run, url)
    directory = RunDirectory(run_root(root) / remote.run_id)
    commits = _chosen(remote, which)
    with RunLock(directory.root, directory.id):
        if directory.record.exists():
            _require_same_run(directory, remote, commits)
        else:
            directory.path.mkdir(parents=True, exist_ok=True)
            fetch_mirrored(remote, directory)
            completion = remote.completion()
            if completion is not None:
                write_completion(directory.root, completion)
        for commit in commits:
            target = directory.checkpoints / step_name(commit.step)
            if target.exists():
                echo(f"step {commit.step} is already here")
                continue
            echo(f"fetching step {commit.step} from {remote.url}")
            remote.fetch(commit, target)
        _refresh_pointers(directory)
    echo(f"{directory.id} is in {directory.path}")


def begin_next_attempt(directory: RunDirectory, *, attempt: int, aside: RunDirectory) -> None:
    """Let storage know that a cleared run starts afresh, so that every machine does.

    Args:
        directory: the run as it was.
        attempt: the number of its next start.
        aside: where it is now.
    """
    from llmforge.errors import ForgeError
    from llmforge.recipe import load_recipe
    from llmforge.remote import recipe_remote

    if not aside.recipe.exists():
        return
    try:
        recipe = load_recipe(aside.recipe)
        if recipe.storage.url is None:
            return
        remote = recipe_remote(recipe, directory.id, attempt=attempt)
        remote.begin()
    except ForgeError as error:
        echo(
            f"storage could not be notified and will be with the next start: {error.message}",
            err=True,
        )
        return
    echo(f"storage: attempt {attempt} is started in {remote.url}; the earlier one stays there")


def stored_run(root: Any, text: str, url: str | None) -> RemoteRun:
    """Return the newest attempt of the one run in storage whose id begins with ``text``.

    Raises:
        UsageError: nothing says where the storage is, or several runs match.
        RunError: none matches.
    """
    from llmforge.errors import RunError, UsageError
    from llmforge.recipe import load_recipe
    from llmforge.remote import RemoteRun, list_runs, recipe_remote
    from llmforge.rundir import find_run, read_record

    if url is None:
        directory = find_run(run_root(root), text, gone=True)
        recipe = load_recipe(directory.recipe) if directory.recipe.exists() else None
        if recipe is None or recipe.storage.url is None:
            raise UsageError(
                f"nothing here says where {directory.id} is stored",
                remedy="say it with --storage URL, for example s3://bucket/runs",
            )
        attempt = read_record(directory).attempt
        return recipe_remote(recipe, directory.id, attempt=attempt)
    found = [entry for entry in list_runs(url) if entry.run_id.startswith(text)]
    exact = [entry for entry in found if entry.run_id == text]
    if not found:
        raise RunError(
            f"no run in {url} begins with '{text}'", remedy=f"forge runs list --storage {url}"
        )
    if len(found) > 1 and not exact:
        names = ", ".join(entry.run_id for entry in found)
        raise UsageError(f"'{text}' begins several runs in {url}: {names}")
    entry = (exact or found)[0]
    return RemoteRun(url, None, entry.run_id, entry.attempt)


def _chosen(remote: RemoteRun, which: str) -> list[Commit]:
    """Return the commits that ``--checkpoint`` means.

    Raises:
        UsageError: there is none of that name.
    """
    from llmforge.errors import UsageError

    commits = remote.commits()
    best = [commit for commit in commits if commit.is_best] or commits
    named = {"best": best[-1:], "last": commits[-1:], "all": commits, "none": []}
    chosen = named.get(which, [item for item in commits if str(item.step) == which])
    if not chosen and which != "none":
        steps = ", ".join(str(commit.step) for commit in commits) or "none"
        raise UsageError(
            f"{remote.url} has no checkpoint '{which}'", remedy=f"committed steps: {steps}"
        )
    return chosen


def _require_same_run(directory: RunDirectory, remote: RemoteRun, commits: list[Commit]) -> None:
    """Refuse to mix what is fetched with another run, or another attempt, of this id.

    Raises:
        RunError: the one here is another.
    """
    from llmforge.errors import RunError
    from llmforge.rundir import read_record

    record = read_record(directory)
    same_recipe = {commit.recipe_hash for commit in commits} <= {record.identity.get("hash")}
    if record.attempt == remote.attempt and same_recipe:
        return
    here = f"attempt {record.attempt}" + ("" if same_recipe else " of a different recipe")
    raise RunError(
        f"{directory.path} holds {here}, not what is in {remote.url}",
        remedy=f"set it aside first: forge runs clear {directory.id}; or fetch into another --root",
    )


def _refresh_pointers(directory: RunDirectory) -> None:
    from llmforge.checkpoint.publish import refresh_pointers

    if directory.checkpoints.is_dir():
        refresh_pointers(directory.checkpoints)


def _state(entry: RemoteEntry) -> str:
    if entry.completion is not None:
        return entry.completion.state
    return str((entry.record or {}).get("state", "unreadable" if entry.problem else ""))


def _entry_json(entry: RemoteEntry) -> dict[str, Any]:
    record = entry.record or {}
    return {
        "id": entry.run_id,
        "state": _state(entry),
        "attempts": list(entry.attempts),
        "step": record.get("step"),
        "metrics": record.get("metrics", {}),
        "checkpoints": list(entry.steps),
        "size": entry.size,
        "problem": entry.problem,
    }
