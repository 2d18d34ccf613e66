"""A run as its components see it, from its directory and its recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llmforge.interfaces import PREFERENCES, RunContext
from llmforge.plugins import load
from llmforge.settings import settings

if TYPE_CHECKING:
    from llmforge.recipe import Recipe
    from llmforge.rundir.layout import RunDirectory


def run_context(directory: RunDirectory, recipe: Recipe, **further: Any) -> RunContext:
    """Return what components may know about a run; ``further`` are fields the recipe lacks."""
    return RunContext(
        id=directory.id,
        directory=directory.path,
        cache=settings().cache,
        config=recipe.tables,
        train=recipe.train,
        seed=recipe.run.seed,
        context=recipe.context,
        offline=settings().offline,
        form=_form(recipe),
        **further,
    )


def _form(recipe: Recipe) -> str:
    """Return the form of models that the recipe's objective trains."""
    chosen = recipe.selections.get("objective")
    forms = load("objective", chosen[0].name).supports if chosen else frozenset()
    return min(forms - {PREFERENCES}, default="next_token")
