"""What ``forge recipe show`` prints: the resolved recipe with where each value came from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmforge.recipe.files import label_of
from llmforge.recipe.load import (
    DEFAULT,
    GenerationRecipe,
    Overrides,
    load_generation,
    load_recipe,
    only_generates,
)
from llmforge.recipe.resolved import Origin, Recipe
from llmforge.recipe.run_identity import identity, run_id
from llmforge.recipe.toml import KeyPath, dotted, to_annotated_toml


def as_text(
    source: str | Path, *, profile: str | None, overrides: Overrides, defaults: bool
) -> str:
    """Return the resolved recipe as TOML, each value with its origin as a comment."""
    recipe = _load(source, profile, overrides)
    folder = f"{recipe.source.parent}/"  # the first line names it; the comments stay short
    origins = {key: str(origin).replace(folder, "") for key, origin in recipe.origins.items()}
    head = f"# {label_of(recipe.source)}"
    if isinstance(recipe, Recipe):
        head += f"\n# run id {run_id(recipe)}"
    tables = _shown(recipe.tables, recipe.origins, defaults=defaults)
    return f"{head}\n\n{to_annotated_toml(tables, origins=origins)}"


def as_mapping(
    source: str | Path, *, profile: str | None, overrides: Overrides, defaults: bool
) -> dict[str, Any]:
    """Return the resolved recipe, its identity and its origins as JSON-compatible values."""
    recipe = _load(source, profile, overrides)
    shown: dict[str, Any] = {"source": str(recipe.source), "profile": profile}
    if isinstance(recipe, Recipe):
        shown |= {"run_id": run_id(recipe), "identity": identity(recipe).hash}
    shown["recipe"] = _shown(recipe.tables, recipe.origins, defaults=defaults)
    shown["origins"] = {
        key: str(origin) for key, origin in recipe.origins.items() if defaults or origin != DEFAULT
    }
    return shown


def _load(
    source: str | Path, profile: str | None, overrides: Overrides
) -> Recipe | GenerationRecipe:
    load = load_generation if only_generates(source) else load_recipe
    return load(source, profile=profile, overrides=overrides)


def _shown(
    tables: Mapping[str, Any],
    origins: Mapping[str, Origin],
    *,
    defaults: bool,
    prefix: KeyPath = (),
) -> dict[str, Any]:
    """Return ``tables`` as they are, or without defaults and the tables that leaves empty."""
    kept: dict[str, Any] = {}
    for key, value in tables.items():
        path = (*prefix, key)
        if isinstance(value, Mapping):
            inner = _shown(value, origins, defaults=defaults, prefix=path)
            if inner:
                kept[key] = inner
        elif defaults or origins[dotted(path)] != DEFAULT:
            kept[key] = value
    return kept
