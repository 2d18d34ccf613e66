"""The place of a run in storage, as its recipe has it."""

from __future__ import annotations

from llmforge.errors import Problem
from llmforge.interfaces import RunContext
from llmforge.options import plain
from llmforge.plugins import build_manager, load
from llmforge.recipe import Recipe
from llmforge.remote.archive import missing_package
from llmforge.remote.connection import Limiter
from llmforge.remote.stored_attempt import RemoteRun


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
