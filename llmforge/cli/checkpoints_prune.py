"""``forge checkpoints prune``: deleting the checkpoints of a run that nobody needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmforge.cli import options
from llmforge.cli.common import console, echo, emit_json, interactive, run_root

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmforge.checkpoint import Retention
    from llmforge.insight.inventory import CheckpointInfo
    from llmforge.rundir import RunDirectory


@dataclass(frozen=True)
class Pruning:
    """What goes and what stays, with the reason why it must."""

    doomed: Sequence[CheckpointInfo]
    kept: Sequence[tuple[CheckpointInfo, str]]

    @property
    def size(self) -> int:
        """Bytes that are freed."""
        return sum(info.size for info in self.doomed)


def prune(
    run: options.Run,
    keep_last: Annotated[
        int | None,
        options.option("--keep-last", metavar="N", min=1, help="Keep the N newest."),
    ] = None,
    keep_best: Annotated[
        int | None,
        options.option(
            "--keep-best", metavar="N", min=1, help="Keep the last N that were the best so far."
        ),
    ] = None,
    keep_every: Annotated[
        int | None,
        options.option(
            "--keep-every", metavar="N", min=1, help="Keep those whose step is a multiple of N."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would go, delete nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: options.AsJson = False,
    root: options.Root = None,
) -> None:
    """Delete checkpoints of a run that is not being trained, after asking.

    The best and the last one stay, and those that are pinned, damaged, or on their way to storage.
    """
    from llmforge.checkpoint import Retention
    from llmforge.errors import UsageError
    from llmforge.rundir import RunLock, find_run

    directory = find_run(run_root(root), run)
    if keep_last is None and keep_best is None and keep_every is None:
        raise UsageError(
            "nothing says which checkpoints shall stay",
            remedy=f"for example: forge checkpoints prune {run} --keep-last 3 --keep-best 1",
        )
    retention = Retention(keep_last=keep_last or 1, keep_best=keep_best or 1, keep_every=keep_every)
    _require_idle(directory)
    with RunLock(directory.root, directory.id):
        found = plan_pruning(directory, retention)
    if not as_json:
        _print(directory, found, dry_run=dry_run)
    if not dry_run and found.doomed:
        _confirm(directory, found, yes=yes, as_json=as_json)
        with RunLock(directory.root, directory.id):
            again = {info.step for info in plan_pruning(directory, retention).doomed}
            found = Pruning([info for info in found.doomed if info.step in again], found.kept)
            _delete(directory, found.doomed)
        if not as_json:
            echo(f"deleted: {_count_text(found)}")
    if as_json:
        emit_json(_as_json(directory, found, dry_run=dry_run))


def plan_pruning(directory: RunDirectory, retention: Retention) -> Pruning:
    """Return which checkpoints of a run may go; for the process that holds its lock.

    Raises:
        ForgeError: checkpoints or the recipe cannot be read.
    """
    from llmforge.checkpoint.format import open_checkpoint
    from llmforge.checkpoint.retention import to_delete
    from llmforge.insight.inventory import checkpoints_of

    known = checkpoints_of(directory)
    waiting = _waiting(directory, known)
    sound = [open_checkpoint(info.path) for info in known if not info.problem]
    doomed = to_delete(
        sound,
        retention=retention,
        best_steps=[item.step for item in sound if item.is_best],
        pinned={info.step for info in known if info.is_pinned or info.step in waiting},
    )
    going = {item.step for item in doomed}
    return Pruning(
        [info for info in known if info.step in going],
        [(info, _why(info, waiting)) for info in known if info.step not in going],
    )


def _waiting(directory: RunDirectory, known: Sequence[CheckpointInfo]) -> set[int]:
    """Return the steps on their way to storage, or not yet there if the recipe has one."""
    from llmforge.courier import BEGUN, pending_uploads
    from llmforge.insight.compare import read_recipe

    found = {info.step for info in known if info.upload in ("queued", *BEGUN)}
    if (read_recipe(directory).get("storage") or {}).get("url") is None:
        return found
    from llmforge.recipe import load_recipe
    from llmforge.remote import recipe_remote
    from llmforge.rundir import read_record

    attempt = read_record(directory).attempt
    place = recipe_remote(load_recipe(directory.recipe), directory.id, attempt=attempt).url
    return found | {item.step for item in pending_uploads(directory, place)}


def _require_idle(directory: RunDirectory) -> None:
    """Refuse a run that trains, also on another machine, where its lock may not be seen.

    Raises:
        RunLockedError: it does.
    """
    from llmforge.errors import RunLockedError
    from llmforge.rundir import entry_of

    if entry_of(directory).state == "running":
        raise RunLockedError(
            f"run {directory.id} is being trained",
            remedy="it deletes checkpoints itself: checkpoint.keep_last and keep_best say how many "
            "stay",
        )


def _confirm(directory: RunDirectory, found: Pruning, *, yes: bool, as_json: bool) -> None:
    from llmforge.errors import UsageError

    if yes:
        return
    if as_json or not interactive():
        raise UsageError(
            f"deleting checkpoints of {directory.id} needs a yes, and there is no terminal to ask",
            remedy="add --yes, or --dry-run to see what would go",
        )
    typer.confirm(f"Delete {_count_text(found)}?", abort=True)


def _delete(directory: RunDirectory, doomed: Sequence[CheckpointInfo]) -> None:
    """Delete checkpoints, each of them none any more from the first instant.

    Raises:
        CheckpointError: the disk does not let one go; those after it stay, too.
    """
    from llmforge.checkpoint.publish import delete, refresh_pointers
    from llmforge.errors import CheckpointError
    from llmforge.rundir.atomic import write_remedy

    for number, info in enumerate(doomed):
        try:
            delete(info.path)
        except OSError as error:
            raise CheckpointError(
                f"{info.path} cannot be deleted: {error.strerror}; {number} of {len(doomed)} are",
                remedy=write_remedy(error, f"{directory.checkpoints} and what is in it"),
            ) from error
    refresh_pointers(directory.checkpoints)


def _why(info: CheckpointInfo, waiting: set[int]) -> str:
    """Return why a checkpoint stays whatever the options say; empty when it is they that say so."""
    reasons = {
        "best": info.is_best,
        "last": info.is_last,
        "pinned": info.is_pinned,
        "damaged": bool(info.problem),
        "not in storage yet": info.step in waiting,
    }
    return ", ".join(name for name, holds in reasons.items() if holds)


def _print(directory: RunDirectory, found: Pruning, *, dry_run: bool) -> None:
    from llmforge.cli.checkpoint_views import print_checkpoints

    stays = ", ".join(f"{info.step:,}{f' ({why})' if why else ''}" for info, why in found.kept)
    if not found.doomed:
        rest = f"; what stays: step {stays}" if stays else ", it has no checkpoint"
        echo(f"{directory.id}: nothing to delete{rest}")
        return
    print_checkpoints(console(), found.doomed)
    echo(f"\n{'would go' if dry_run else 'to delete'}: {_count_text(found)}")
    echo(f"what stays: step {stays}")


def _count_text(found: Pruning) -> str:
    from llmforge.checkpoint import size_text

    count = len(found.doomed)
    return f"{count:,} checkpoint{'' if count == 1 else 's'}, {size_text(found.size)}"


def _as_json(directory: RunDirectory, found: Pruning, *, dry_run: bool) -> dict[str, Any]:
    return {
        "run": directory.id,
        "dry_run": dry_run,
        "deleted": [
            {"step": info.step, "path": str(info.path), "size": info.size} for info in found.doomed
        ],
        "kept": [{"step": info.step, "why": why} for info, why in found.kept],
        "bytes": found.size,
    }
