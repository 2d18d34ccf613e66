"""A run context and component instances made without a recipe, a run directory or a journal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmforge.component import Component
from llmforge.interfaces import RunContext
from llmforge.recipe.schema import TrainTable


def run_context(
    directory: Path, *, train: Mapping[str, Any] | None = None, **changes: Any
) -> RunContext:
    """Return the context of a small run on the CPU that lives in ``directory``.

    Args:
        directory: receives the run directory and the cache.
        train: keys of ``[train]`` that shall differ from 20 steps of 4 sequences in fp32.
        changes: fields of :class:`llmforge.RunContext` that shall differ.
    """
    run_directory, cache = directory / "run", directory / "cache"
    for folder in (run_directory, cache):
        folder.mkdir(parents=True, exist_ok=True)
    table = {
        "max_steps": 20,
        "batch_size": 4,
        "precision": "fp32",
        "compile": False,
        "device": "cpu",
        **(train or {}),
    }
    fields: dict[str, Any] = {
        "id": "test-run",
        "directory": run_directory,
        "cache": cache,
        "config": {"train": table},
        "train": TrainTable(**table),
        "seed": 1337,
        "context": 16,
        "total_steps": 20,
        "schedule_steps": 20,
        "offline": True,
    }
    return RunContext(**(fields | changes))


def make_component(
    component: type[Component], options: Mapping[str, Any] | None = None, *, name: str = ""
) -> Component:
    """Return an instance of ``component`` with checked ``options``, as the core would make it.

    ``name`` is the name a recipe selects it by; the class's own, else its lower-case class name,
    when absent.
    """
    instance = component(component.Options(**(options or {})))
    instance.name = name or component.name or component.__name__.lower()
    return instance
