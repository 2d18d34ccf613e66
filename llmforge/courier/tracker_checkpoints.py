"""Checkpoints that a tracker keeps, counted as uploads once they were read back and verified."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection

from llmforge.checkpoint import list_checkpoints, open_checkpoint, verify
from llmforge.checkpoint.manifest import Manifest
from llmforge.component import Component
from llmforge.errors import CheckpointError
from llmforge.events import CheckpointSaved, Event
from llmforge.interfaces import TrackedRun
from llmforge.plugins import build_manager, call_factory
from llmforge.recipe import Recipe
from llmforge.rundir import RunDirectory
from llmforge.rundir.uploads import KeptCheckpoint, read_kept, write_kept


class Keeping:
    """Looks whether a tracker's service has a checkpoint that was given to it.

    Args:
        directory: the run.
        tracker: the component.
        on_kept: told a checkpoint that is safe there.
    """

    def __init__(
        self,
        directory: RunDirectory,
        tracker: Component,
        *,
        on_kept: Callable[[KeptCheckpoint], None],
    ) -> None:
        self._directory = directory
        self._tracker = tracker
        self._on_kept = on_kept

    def __call__(self, event: Event) -> None:
        """Read a checkpoint back that has just arrived, and record it if it is the one here.

        Raises:
            CheckpointError: the service has something else.
            Exception: whatever the tracker's package raises.
        """
        if not isinstance(event, CheckpointSaved) or not self._tracker.keeps_checkpoints:
            return
        here = self._directory.path / event.path
        try:
            manifest = open_checkpoint(here).manifest
        except CheckpointError:
            return  # retention has deleted it meanwhile: nothing depends on the answer
        self._compare(self._run(), event.step, manifest)
        kept = KeptCheckpoint(
            step=event.step,
            created=manifest.created,
            tracker=self._tracker.name,
            address=self._tracker.address,
        )
        write_kept(self._directory, kept)
        self._on_kept(kept)

    def _run(self) -> TrackedRun:
        run: TrackedRun = call_factory(
            build_manager([self._tracker]),
            "forge_open_tracked_run",
            address=self._tracker.address,
            root=self._directory.root,
        )
        return run

    def _compare(self, run: TrackedRun, step: int, expected: Manifest) -> None:
        self._directory.uploads.mkdir(exist_ok=True)
        copy = self._directory.uploads / f".{self._tracker.name}-{step}"
        shutil.rmtree(copy, ignore_errors=True)
        try:
            run.fetch(step, copy)
            wrong = verify(copy)
            if not wrong and not _same(open_checkpoint(copy).manifest, expected):
                wrong = ["it is another one"]
        finally:
            shutil.rmtree(copy, ignore_errors=True)
        if wrong:
            raise CheckpointError(
                f"the checkpoint of step {step} in {run.link} is not sound and does not count as "
                f"an upload: {'; '.join(wrong)}"
            )


def _same(one: Manifest, other: Manifest) -> bool:
    return (one.step, one.files) == (other.step, other.files)


def counts_as_upload(recipe: Recipe) -> bool:
    """Return whether what trackers keep lets checkpoints be deleted here.

    Storage, where a run has one, decides alone.
    """
    return recipe.storage.delete_local_after_upload and recipe.storage.url is None


def kept_elsewhere(directory: RunDirectory) -> Collection[int]:
    """Return the steps whose checkpoint here is safe in a tracker's service."""
    known = read_kept(directory)
    return {
        item.step
        for item in list_checkpoints(directory.checkpoints)
        if item.step in known and known[item.step].created == item.manifest.created
    }
