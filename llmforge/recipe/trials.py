"""Recipes of trials: the sweep's own recipe with the parameters of a point laid over it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmforge.errors import Problem, RecipeError
from llmforge.interfaces import Dimension
from llmforge.recipe.load import Overrides, load_recipe
from llmforge.recipe.overrides import Override, as_overrides
from llmforge.recipe.resolved import Origin, Recipe
from llmforge.recipe.run_identity import identity, trial_id
from llmforge.recipe.search_space import SPACE
from llmforge.recipe.toml import dotted, parse_key

MOST_CORNERS = 64
"""Recipes that are loaded at most to find values that do not fit."""


def load_trial(
    source: str | Path,
    parameters: Mapping[str, Any],
    *,
    profile: str | None = None,
    overrides: Overrides = (),
    seed: int | None = None,
    name: str = "{run_id}",
    origins: Mapping[str, str] | None = None,
) -> Recipe:
    """Return the recipe of one trial: an ordinary recipe, without the sweep.

    Args:
        source: the sweep's recipe.
        parameters: values by recipe key, tied ones included.
        profile: the profile the sweep was started with.
        overrides: those of the sweep; the parameters win over them.
        seed: the trial's ``run.seed``, when it is not the recipe's own.
        name: the display name, ``sweep.trial_name`` of the recipe.
        origins: where each parameter is written, for messages.

    Raises:
        RecipeError: the parameters make no valid recipe.
    """
    given = as_overrides(overrides)
    for key, value in parameters.items():
        given.append(Override(parse_key(key), value, (origins or {}).get(key, "sweep")))
    if seed is not None:
        given.append(Override(("run", "seed"), seed, "sweep"))
    given += [Override(("run", "name"), name, "sweep"), Override(("sweep",), None, "sweep")]
    recipe = load_recipe(source, profile=profile, overrides=given)
    own = trial_id(recipe)
    return dataclasses.replace(
        recipe,
        run=recipe.run.model_copy(update={"id": own}),
        tables={**recipe.tables, "run": {**recipe.tables["run"], "id": own}},
        origins={**recipe.origins, "run.id": Origin("sweep")},
    )


def check_trials(
    recipe: Recipe, source: str | Path, *, profile: str | None = None, overrides: Overrides = ()
) -> None:
    """Load the recipes at the corners of a sweep's space, so that no trial meets a bad one.

    Raises:
        RecipeError: a value of the space makes no valid recipe, or makes no difference.
    """
    space = recipe.space
    if space is None:
        return
    origins = _origins(recipe)
    problems: dict[tuple[str, str], Problem] = {}
    hashes: list[tuple[Mapping[str, Any], str]] = []
    for point in space.corners(at_most=MOST_CORNERS):
        full = space.with_ties(point)
        try:
            trial = load_trial(source, full, profile=profile, overrides=overrides, origins=origins)
        except RecipeError as error:
            for problem in error.problems:
                found = problem if problem.key in full else _with_point(problem, full)
                problems.setdefault((problem.where, problem.key), found)
        else:
            hashes.append((point, identity(trial).hash))
    for dimension in space.dimensions:
        if _makes_no_difference(dimension, hashes):
            problem = _no_difference(dimension, origins[dimension.key])
            problems.setdefault((problem.where, problem.key), problem)
    if problems:
        raise RecipeError(list(problems.values()), source=str(source))


def _origins(recipe: Recipe) -> dict[str, str]:
    """Return where each swept key is written, by the key."""
    assert recipe.space is not None
    names = [item.key for item in recipe.space.dimensions]
    names += [item.key for item in recipe.space.ties]
    found = {}
    for name in names:
        inner = (dotted((*SPACE, name)), dotted((*SPACE, *parse_key(name))))
        found[name] = next(
            str(origin)
            for key, origin in recipe.origins.items()
            if key.startswith(tuple(f"{prefix}." for prefix in inner))
        )
    return found


def _with_point(problem: Problem, parameters: Mapping[str, Any]) -> Problem:
    listed = ", ".join(f"{key} = {value}" for key, value in parameters.items())
    return dataclasses.replace(problem, message=f"{problem.message}, in a trial with {listed}")


def _makes_no_difference(
    dimension: Dimension, hashes: Sequence[tuple[Mapping[str, Any], str]]
) -> bool:
    """Return whether recipes that differ in this key alone are all the same run."""
    seen: dict[str, set[str]] = {}
    counts: dict[str, int] = {}
    for point, found in hashes:
        if dimension.key in point:
            others = repr({key: point[key] for key in point if key != dimension.key})
            seen.setdefault(others, set()).add(found)
            counts[others] = counts.get(others, 0) + 1
    compared = [others for others in seen if counts[others] > 1]
    return bool(compared) and all(len(seen[others]) == 1 for others in compared)


def _no_difference(dimension: Dimension, where: str) -> Problem:
    table = dimension.key.rpartition(".")[0]
    return Problem(
        key=dimension.key,
        where=where,
        message="every value of it makes the same run",
        remedy=f"is [{table}] selected? sweep its name too, and add when = {{...}}",
    )
