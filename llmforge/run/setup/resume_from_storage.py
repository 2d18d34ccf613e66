"""Continuing from storage: what another machine, or this one before its disk was lost, has left."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace

from llmforge.checkpoint import newest_valid
from llmforge.checkpoint.format import TOKENIZER, step_name
from llmforge.checkpoint.publish import set_aside
from llmforge.courier import forget_uploads
from llmforge.courier.cursor import rewind_cursors
from llmforge.errors import CheckpointError, RunError, StorageError
from llmforge.remote import Commit, RemoteRun, recipe_remote
from llmforge.remote.layout import ATTEMPT, COMPLETION, is_safe
from llmforge.run.plan import Plan
from llmforge.run_root import root_option
from llmforge.rundir import RunDirectory, next_attempt, read_record, write_completion
from llmforge.rundir.atomic import write_bytes

log = logging.getLogger("llmforge.run")

_NOT_OF_THE_RUN = (ATTEMPT, COMPLETION)
_NO_LOOK = (
    "the run may be there, so nothing was started; without looking: --set storage.resume=false"
)


@dataclass(frozen=True)
class BroughtBack:
    """What storage knew: the ``attempt`` to continue with, and lines for the user."""

    attempt: int
    notices: tuple[str, ...] = ()


def bring_back(
    plan: Plan, *, say: Callable[[str], None], require_ready: Callable[[], None]
) -> BroughtBack:
    """Fetch what storage has of the run and this machine has not: its completion, or a checkpoint.

    Only for the process that holds the run's lock. Nothing here is replaced before what comes
    instead is complete and verified.

    Args:
        plan: the run; its recipe has a ``storage.url``.
        say: told what is fetched, which may take long.
        require_ready: called before a checkpoint is fetched; raises when this machine cannot
            train the run.

    Raises:
        ForgeError: what ``require_ready`` raised.
        RunError: storage has another recipe's run of this id, or a later attempt.
        StorageError: storage does not answer and there is no checkpoint here to resume from.
        CheckpointError: there are checkpoints in storage, none is sound, and none is here.
    """
    directory = plan.directory
    started = directory.record.exists()
    attempt = read_record(directory).attempt if started else next_attempt(plan.root, plan.run_id)
    here = _newest_here(plan)
    remote = recipe_remote(plan.recipe, plan.run_id, attempt=attempt)
    try:
        newest = max(remote.attempts(), default=0)
        if newest > attempt and started:
            raise RunError(
                f"storage holds attempt {newest} of run {plan.run_id}, here is "
                f"attempt {attempt}: it was cleared and started again elsewhere",
                remedy=f"forge runs clear {plan.run_id}{root_option(plan.root)} sets the one here "
                "aside; the same command then continues with the other",
            )
        if newest < attempt:
            return BroughtBack(attempt)
        remote = remote.other(newest)
        if not started and _bring_completion(plan, remote):
            say(f"completed elsewhere; its results are in {remote.url}")
            return BroughtBack(newest)
        return BroughtBack(
            newest,
            _bring_checkpoint(plan, remote, here=here, say=say, require_ready=require_ready),
        )
    except StorageError as error:
        if here is None:
            remedies = [text for text in (error.remedy, _NO_LOOK) if text]
            raise type(error)(error.message, remedy="\n  ".join(remedies)) from error
        return BroughtBack(
            attempt,
            (f"storage was not asked for a newer checkpoint, resuming from here: {error.message}",),
        )


def go_back(plan: Plan, *, step: int) -> None:
    """Let storage know that the run goes back to ``step``: what came later is superseded there.

    It is forgotten here first, so that what is killed in between counts as not uploaded.

    Raises:
        StorageError: storage does not answer.
    """
    forget_uploads(plan.directory, after=step)
    record = read_record(plan.directory)
    recipe_remote(plan.recipe, plan.run_id, attempt=record.attempt).supersede(after=step)


def _newest_here(plan: Plan) -> int | None:
    """Return the step of the newest sound checkpoint here; damaged ones are set aside."""
    try:
        restored = newest_valid(plan.directory.checkpoints)
    except CheckpointError as error:
        log.warning("%s", error.message)  # storage may have a sound one; else it is reported again
        return None
    return None if restored is None else restored.checkpoint.step


def _bring_completion(plan: Plan, remote: RemoteRun) -> bool:
    """Record here that the run is completed elsewhere; return whether it is."""
    done = remote.completion()
    if done is None:
        return False
    _check_identity(plan, remote, done.identity)
    fetch_mirrored(remote, plan.directory)
    write_completion(plan.root, replace(done, directory=str(plan.directory.path.absolute())))
    return plan.completion() is not None


def _bring_checkpoint(
    plan: Plan,
    remote: RemoteRun,
    *,
    here: int | None,
    say: Callable[[str], None],
    require_ready: Callable[[], None],
) -> tuple[str, ...]:
    newer = [commit for commit in remote.commits() if here is None or commit.step > here]
    if newer:
        require_ready()
    notices = []
    for commit in reversed(newer):
        _check_identity(plan, remote, commit.recipe_hash)
        say(f"fetching the checkpoint of step {commit.step} from {remote.url}")
        try:
            _fetch(plan, remote, commit)
        except StorageError:
            wrong = remote.verify(commit, deep=True)
            if not wrong:
                raise
            notices.append(f"step {commit.step} in storage is damaged: {'; '.join(wrong)}")
            log.warning("%s", notices[-1])
        else:
            return (*notices, f"resumed from step {commit.step} in {remote.url}")
    if newer and here is None:
        raise CheckpointError(
            "\n  ".join([f"no checkpoint in {remote.url} is sound; not starting over", *notices]),
            remedy="put a sound copy back there, or train from the beginning: "
            f"forge runs clear {plan.run_id}{root_option(plan.root)}",
        )
    return tuple(notices)


def _fetch(plan: Plan, remote: RemoteRun, commit: Commit) -> None:
    directory = plan.directory
    directory.checkpoints.mkdir(parents=True, exist_ok=True)
    # The run's files come first: checkpoints without a run.json would be nobody's.
    remote.fetch_run_files(commit, directory.path)
    rewind_cursors(directory.cursors)
    target = directory.checkpoints / step_name(commit.step)
    if target.exists():  # and is damaged, else nothing would be fetched
        log.warning("%s is damaged, set aside as %s", target, set_aside(target, "corrupt").name)
    remote.fetch(commit, target)
    if not directory.tokenizer.exists() and (target / TOKENIZER).is_dir():
        fresh = directory.path / f".{TOKENIZER}"
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(target / TOKENIZER, fresh)
        fresh.rename(directory.tokenizer)


def fetch_mirrored(remote: RemoteRun, directory: RunDirectory) -> None:
    """Download the small files of a run that are mirrored: record, metrics, samples, plots."""
    for name in remote.names():
        if name in _NOT_OF_THE_RUN or not is_safe(name):
            continue
        content = remote.read_file(name)
        if content is None:
            continue
        path = directory.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content)
    rewind_cursors(directory.cursors)


def _check_identity(plan: Plan, remote: RemoteRun, found: str) -> None:
    if found != plan.identity.hash:
        raise RunError(
            f"{remote.url} is run {plan.run_id} of a different recipe",
            remedy="choose another run.id or another storage.url",
        )
