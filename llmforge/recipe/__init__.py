"""Recipes: what a run shall be, read from TOML, checked as a whole before anything happens."""

from __future__ import annotations

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
