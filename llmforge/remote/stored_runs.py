"""The runs in a storage: all of them, and the one that a recipe means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llmforge.errors import Problem, StorageError
from llmforge.interfaces import RunContext
from llmforge.options import plain
from llmforge.plugins import build_manager, load
from llmforge.recipe import Recipe
from llmforge.remote.archive import missing_package
from llmforge.remote.connection import Connections, Limiter
from llmforge.remote.stored_attempt import RemoteRun
from llmforge.remote.transfer import for_each
from llmforge.rundir.completion import Completion

_TOGETHER = 8


@dataclass(frozen=True, kw_only=True)
class RemoteEntry:
    """A run in storage, by its newest attempt.

    Attributes:
        run_id: the run.
        attempts: its attempts there, in order.
        record: its ``run.json`` as last mirrored, None when there is none.
        completion: its completion, None when it is not done.
        steps: steps of the committed checkpoints, in order.
        size: bytes of the committed checkpoints.
        problem: why not all of this could be read; empty when it could.
    """

    run_id: str
    attempts: tuple[int, ...]
    record: Mapping[str, Any] | None = None
    completion: Completion | None = None
    steps: tuple[int, ...] = field(default=())
    size: int = 0
    problem: str = ""

    @property
    def attempt(self) -> int:
        """The newest attempt."""
        return self.attempts[-1]


def list_runs(
    url: str, options: Mapping[str, Any] | None = None, *, stall_seconds: float = 60.0
) -> list[RemoteEntry]:
    """Return the runs below ``url`` by run id.

    Raises:
        StorageError: the place cannot be listed. What is wrong with one run is in its entry.
    """
    connections = Connections(url, options, stall_seconds=stall_seconds)
    names = connections.call("listing runs", lambda storage, _: storage.folders(""))

    def one(name: str, _: None) -> RemoteEntry | None:
        run = RemoteRun.over(connections, name, 1)
        attempts = tuple(run.attempts())
        return _entry(run.other(attempts[-1]), attempts) if attempts else None

    found = for_each(((name, None) for name in sorted(names)), one, concurrency=_TOGETHER)
    return [entry for entry in found if entry is not None]


def recipe_remote(recipe: Recipe, run_id: str, *, attempt: int) -> RemoteRun:
    """Return the place of a run whose recipe has a ``storage.url``; nothing is asked yet."""
    keys = recipe.storage
    assert keys.url is not None
    megabytes = keys.max_megabytes_per_second
    return RemoteRun(
        keys.url,
        plain(recipe.selected("storage").options),
        run_id,
        attempt,
        stall_seconds=keys.stall_seconds,
        concurrency=keys.concurrency,
        limiter=None if megabytes is None else Limiter(megabytes * 1e6),
    )


def storage_problems(recipe: Recipe, run: RunContext) -> list[Problem]:
    """Return what a recipe's storage lacks before it can be used: packages, then credentials."""
    if recipe.storage.url is None:
        return []
    selection = recipe.selected("storage")
    component = load("storage", selection.name)(selection.options)
    archive = missing_package(recipe.storage.archive)
    problems = component.missing_packages() + ([] if archive is None else [archive])
    if problems:
        return problems
    answers = build_manager([component]).hook.forge_preflight(run=run)
    return [problem for answer in answers for problem in answer]


def _entry(run: RemoteRun, attempts: tuple[int, ...]) -> RemoteEntry:
    try:
        commits = run.commits()
        return RemoteEntry(
            run_id=run.run_id,
            attempts=attempts,
            record=run.record(),
            completion=run.completion(),
            steps=tuple(commit.step for commit in commits),
            size=sum(commit.size for commit in commits),
        )
    except StorageError as error:
        return RemoteEntry(run_id=run.run_id, attempts=attempts, problem=error.message)
