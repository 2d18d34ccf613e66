"""Where a proof trains, and what it changes in a recipe for that; nothing of a run's identity."""

from __future__ import annotations

import os
import secrets
import shutil
import time
import typing
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from llmforge.errors import RunError, RunLockedError
from llmforge.proof.certificate import PROOFS
from llmforge.recipe import Recipe
from llmforge.run_root import VARIABLE
from llmforge.rundir import RunDirectory, RunLock

_KEPT = "kept"
_OFFLINE = "offline"
_THREADS = "OMP_NUM_THREADS"


@dataclass(frozen=True, kw_only=True)
class Place:
    """One run of a proof: a root of its own, and its own place in storage.

    Attributes:
        path: holds the runs' root, the storage and the output.
        run_id: of the run.
        log_file: its log, within the run directory.
        storage: URL its checkpoints are uploaded to.
    """

    path: Path
    run_id: str
    log_file: str
    storage: str

    @property
    def run(self) -> RunDirectory:
        """The run."""
        return RunDirectory(self.path / "runs" / self.run_id)

    @property
    def log(self) -> Path:
        """The run's log file."""
        return self.run.path / self.log_file

    @property
    def output(self) -> Path:
        """What its processes printed."""
        return self.path / "output.txt"

    def settings(self) -> dict[str, str]:
        """Return the keys that say where everything goes."""
        return {"run.root": str(self.run.root), "storage.url": self.storage}

    def environment(self) -> dict[str, str]:
        """Return the environment of its processes: this one's, with a known number of threads."""
        return {
            **os.environ,
            VARIABLE: str(self.run.root),
            _THREADS: str(threads()),
            "NO_COLOR": "1",
        }


def threads() -> int:
    """Return how many threads every process of a proof computes with."""
    if (given := os.environ.get(_THREADS, "")).isdecimal():
        return int(given)
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    counts = (psutil.cpu_count(logical=False), allowed)
    return min((count for count in counts if count), default=1)


class ProofDirectory:
    """The directory of one proof, below those of the same run.

    Args:
        root: directory of all runs.
        recipe: what is trained.
        run_id: its run.
        storage: URL to upload to, below which the proof takes a folder of its own; None for a
            folder in the proof's directory.
    """

    def __init__(self, root: Path, recipe: Recipe, *, run_id: str, storage: str | None) -> None:
        self.path = (root / PROOFS / run_id / time.strftime("%Y%m%d-%H%M%S")).absolute()
        self._run_id = run_id
        self._log_file = recipe.run.log_file
        self._storage = f"file://{self.path}" if storage is None else _own_folder(storage)

    @property
    def storage(self) -> str:
        """Where in storage everything of the proof is."""
        return self._storage

    def place(self, name: str) -> Place:
        """Return the place of a run called ``name``, made if it is not there."""
        path = self.path / name
        path.mkdir(parents=True, exist_ok=True)
        storage = f"{self._storage}/{name}/storage"
        return Place(path=path, run_id=self._run_id, log_file=self._log_file, storage=storage)

    def keep(self) -> None:
        """Let the directory stay."""
        (self.path / _KEPT).touch()

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Hold the directory; it is deleted at the end, unless it is to be kept.

        What killed proofs of the run left is deleted first.

        Raises:
            RunLockedError: another process proves the run.
            RunError: the directory cannot be made.
        """
        with ExitStack() as stack:
            try:
                stack.enter_context(RunLock(self.path.parents[1], self._run_id))
            except RunLockedError as error:
                raise RunLockedError(
                    f"another process is already proving {self._run_id}",
                    remedy="wait for it, or choose another directory with --set run.root=DIR",
                ) from error
            for left in self.path.parent.glob("*"):
                if not (left / _KEPT).exists():
                    shutil.rmtree(left, ignore_errors=True)
            try:
                self.path.mkdir(parents=True)
            except OSError as error:
                raise RunError(
                    f"{self.path} cannot be made: {error.strerror}",
                    remedy="choose another directory of runs with --set run.root=DIR",
                ) from error
            try:
                yield
            finally:
                if not (self.path / _KEPT).exists():
                    shutil.rmtree(self.path, ignore_errors=True)
                    with suppress(OSError):  # another proof was kept beside it
                        self.path.parent.rmdir()


def _own_folder(url: str) -> str:
    return f"{url.rstrip('/')}/prove-resume-{secrets.token_hex(4)}"


def proof_settings(recipe: Recipe) -> dict[str, str]:
    """Return the recipe keys that a proof sets in every run, beside :meth:`Place.settings`.

    Trackers that have a mode ``offline`` use it, and phases are read from the log.
    """
    found = {
        f"tracker.{item.name}.mode": _OFFLINE
        for item in recipe.selections.get("tracker", ())
        if _has_offline(item.options)
    }
    if recipe.run.log_level in ("warning", "error"):
        found["run.log_level"] = "info"
    return found


def _has_offline(options: Any) -> bool:
    field = type(options).model_fields.get("mode")
    choices = () if field is None else typing.get_args(field.annotation)
    return _OFFLINE in choices and options.mode == "online"


def as_arguments(settings: Mapping[str, str]) -> list[str]:
    """Return settings as the options of a command."""
    return [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
