"""Checkpoints of runs that a tracker knows: ``mlflow:ID``, ``wandb:ENTITY/PROJECT/ID``.

The tracker's service tells the run's recipe. Its checkpoint is taken from here if the run is here,
else from the artifacts of the tracker, else from the storage in the recipe; what is fetched is
verified and kept in the cache.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from llmforge import plugins
from llmforge.checkpoint import Checkpoint, list_checkpoints, open_checkpoint, verify
from llmforge.checkpoint.format import step_name
from llmforge.errors import (
    CheckpointError,
    ForgeError,
    RecipeError,
    RunError,
    StorageError,
    UsageError,
)
from llmforge.interfaces import TrackedRun
from llmforge.progress import track
from llmforge.recipe import Override, Recipe, identity, load_recipe
from llmforge.redaction import redact
from llmforge.remote import recipe_remote, storage_problems
from llmforge.run.plan import make_plan
from llmforge.rundir import RunDirectory, read_record
from llmforge.rundir.atomic import sync_directory, write_text
from llmforge.settings import settings

HOOK = "forge_open_tracked_run"
Say = Callable[[str], None]

_UNUSED = (
    ("tracker",),
    ("callback",),
    ("sweep",),
    ("deploy",),
    ("storage", "delete_local_after_upload"),
)
"""What of a recipe is not needed here, so that its plugins need not be installed either."""
_FOLDER = "tracked"


@dataclass(frozen=True)
class _Found:
    """A checkpoint somewhere: its step, whether it was the best, and how to get it."""

    step: int
    is_best: bool
    source: str
    fetch: Callable[[Path], None]


def is_tracked(address: str) -> bool:
    """Return whether an address begins with the name of a tracker."""
    return address.partition(":")[0] in plugins.entries("tracker")


def locate_tracked(address: str, which: str, *, root: Path, say: Say) -> Checkpoint:
    """Return the checkpoint ``which`` of the run at ``address``, fetched if it is not here.

    Args:
        address: ``TRACKER:…``, for which :func:`is_tracked` holds.
        which: ``best``, ``last``, a step, or nothing: the best, or the last if none was the best.
        root: directory of all runs.
        say: told what is fetched, which may take long.

    Raises:
        UsageError: the tracker keeps no checkpoints that can be fetched.
        RunError: its service has no such run, refuses the login, or does not answer.
        RecipeError: a package is missing, or the run's recipe cannot be used here.
        CheckpointError: the run has no such checkpoint, or what was fetched is not sound.
    """
    tracker, _, name = address.partition(":")
    with _told_plainly(f"tracker {tracker}"):
        run = _open(tracker, name, root=root)
        folder = settings().cache / _FOLDER / tracker / re.sub(r"[^\w.-]+", "_", name)
        recipe = _recipe(run, folder)
        if here := _here(run, recipe, which, root=root):
            return here
        found = [*_in_artifacts(run), *_in_storage(run, recipe, say=say)]
    chosen = _choose(found, which, run)
    directory = RunDirectory(folder / run.run_id)
    target = directory.checkpoints / step_name(chosen.step)
    if target.exists() and not verify(target):
        return open_checkpoint(target)
    say(f"fetching step {chosen.step} of {run.run_id} from {chosen.source}")
    with _told_plainly(f"tracker {tracker}"):
        _fetch(chosen, target)
    return open_checkpoint(target)


def _open(tracker: str, name: str, *, root: Path) -> TrackedRun:
    component = plugins.load("tracker", tracker)()
    if not hasattr(component, HOOK):
        raise UsageError(
            f"tracker '{tracker}' has no checkpoints to fetch",
            remedy="'forge runs list' shows the runs that are here",
        )
    if problems := component.missing_packages():
        raise RecipeError(problems, source=f"{tracker}:{name}")
    run: TrackedRun = plugins.call_factory(
        plugins.build_manager([component]), HOOK, address=name, root=root
    )
    if run.run_id in ("", ".", "..") or "/" in run.run_id:
        raise RunError(f"{run.link} is not a run of llmforge: it has no run id")
    return run


def _recipe(run: TrackedRun, folder: Path) -> Recipe | None:
    """Return the run's recipe, kept in ``folder``; None when the service does not have it."""
    text = run.recipe()
    if text is None:
        return None
    directory = RunDirectory(folder / run.run_id)
    directory.path.mkdir(parents=True, exist_ok=True)
    write_text(directory.recipe, text)
    return load_recipe(directory.recipe, overrides=[Override(path, None) for path in _UNUSED])


def _here(run: TrackedRun, recipe: Recipe | None, which: str, *, root: Path) -> Checkpoint | None:
    """Return the checkpoint if this very run is here and has it."""
    directory = RunDirectory(root / run.run_id)
    if recipe is None or not directory.record.exists():
        return None
    record = read_record(directory)
    if (record.attempt, record.identity.get("hash")) != (run.attempt, identity(recipe).hash):
        return None
    here = [
        _Found(item.step, item.is_best, "", lambda _: None)
        for item in list_checkpoints(directory.checkpoints)
    ]
    chosen = _matching(here, which)
    if chosen is None:
        return None
    path = directory.checkpoints / step_name(chosen.step)
    return None if verify(path, hashes=False) else open_checkpoint(path)


def _in_artifacts(run: TrackedRun) -> Iterator[_Found]:
    for item in run.checkpoints():
        yield _Found(item.step, item.is_best, run.link, partial(run.fetch, item.step))


def _in_storage(run: TrackedRun, recipe: Recipe | None, *, say: Say) -> Iterator[_Found]:
    if recipe is None or recipe.storage.url is None:
        return
    context = make_plan(recipe).context(resolved={}, notice=say)
    if problems := storage_problems(recipe, context):
        raise RecipeError(problems, source=str(recipe.source))
    remote = recipe_remote(recipe, run.run_id, attempt=run.attempt)
    try:
        commits = remote.commits()
    except StorageError as error:
        say(f"{remote.url} could not be asked for checkpoints: {error.message}")
        return
    for commit in commits:
        yield _Found(commit.step, commit.is_best, remote.url, partial(remote.fetch, commit))


def _choose(found: Sequence[_Found], which: str, run: TrackedRun) -> _Found:
    if not found:
        raise CheckpointError(
            f"{run.link} has no checkpoint of {run.run_id}, and none is here",
            remedy="a run keeps some with log_checkpoints of its tracker, or with a storage.url",
        )
    chosen = _matching(found, which)
    if chosen is None:
        steps = ", ".join(str(step) for step in sorted({item.step for item in found}))
        raise CheckpointError(
            f"{run.link} has no checkpoint '{which}' of {run.run_id}", remedy=f"it has: {steps}"
        )
    return chosen


def _matching(found: Sequence[_Found], which: str) -> _Found | None:
    """Return the one that is meant; of one in two places the first."""
    best = [item for item in found if item.is_best]
    if which == "" and not best:
        which = "last"
    named = {"": best, "best": best, "last": found}
    fitting = named.get(which, [item for item in found if str(item.step) == which])
    return max(fitting, key=lambda item: item.step, default=None)


def _fetch(found: _Found, target: Path) -> None:
    """Fetch a checkpoint into the directory ``target``, whole and verified or not at all."""
    partial_copy = target.with_name(f".tmp-{target.name}-{os.getpid()}")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.rmtree(target, ignore_errors=True)
        shutil.rmtree(partial_copy, ignore_errors=True)
        with track(f"fetching step {found.step}"):
            found.fetch(partial_copy)
        wrong = verify(partial_copy)
        if not wrong and open_checkpoint(partial_copy).step != found.step:
            wrong = [f"it is not of step {found.step}"]
        if wrong:
            raise CheckpointError(
                f"the checkpoint of step {found.step} from {found.source} is not sound: "
                + "; ".join(wrong),
                remedy="take another step of it, with @STEP",
            )
        partial_copy.rename(target)
        sync_directory(target.parent)
    finally:
        shutil.rmtree(partial_copy, ignore_errors=True)


@contextmanager
def _told_plainly(what: str) -> Iterator[None]:
    """Turn what a service's package raises into an error of one message.

    Raises:
        RunError: with that message.
    """
    try:
        yield
    except ForgeError:
        raise
    except Exception as error:  # every package has errors of its own
        reason = redact(str(error)).strip() or type(error).__name__
        raise RunError(f"{what}: {reason}") from error
