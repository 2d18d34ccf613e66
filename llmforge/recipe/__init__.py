"""Recipes: what a run shall be, read from TOML, checked as a whole before anything happens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmforge.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from llmforge.recipe.load import GenerationRecipe, load_generation, load_recipe, profiles_of
    from llmforge.recipe.overrides import Override, parse_set
    from llmforge.recipe.resolved import Origin, Recipe, Selection
    from llmforge.recipe.run_identity import Identity, differing, identity, run_id, trial_id
    from llmforge.recipe.toml import to_toml

__all__ = [
    "GenerationRecipe",
    "Identity",
    "Origin",
    "Override",
    "Recipe",
    "Selection",
    "differing",
    "identity",
    "load_generation",
    "load_recipe",
    "parse_set",
    "profiles_of",
    "run_id",
    "to_toml",
    "trial_id",
]

__getattr__ = lazy_exports(
    __name__,
    {
        "GenerationRecipe": "llmforge.recipe.load",
        "Identity": "llmforge.recipe.run_identity",
        "Origin": "llmforge.recipe.resolved",
        "Override": "llmforge.recipe.overrides",
        "Recipe": "llmforge.recipe.resolved",
        "Selection": "llmforge.recipe.resolved",
        "differing": "llmforge.recipe.run_identity",
        "identity": "llmforge.recipe.run_identity",
        "load_generation": "llmforge.recipe.load",
        "load_recipe": "llmforge.recipe.load",
        "parse_set": "llmforge.recipe.overrides",
        "profiles_of": "llmforge.recipe.load",
        "run_id": "llmforge.recipe.run_identity",
        "to_toml": "llmforge.recipe.toml",
        "trial_id": "llmforge.recipe.run_identity",
    },
)
