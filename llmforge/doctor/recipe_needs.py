"""A recipe: what it needs of this machine, and its components' own checks before step 0."""

from __future__ import annotations

from collections.abc import Iterator

from llmforge.distributed import Place
from llmforge.doctor.finding import Finding, ok, problem, warning
from llmforge.doctor.gpus import GPU
from llmforge.doctor.packages import package_need
from llmforge.errors import PluginError, RecipeError
from llmforge.plugins import load
from llmforge.recipe import Recipe


def needs(recipe: Recipe) -> frozenset[str]:
    """Return what ``recipe`` needs, as :attr:`Finding.concerns` names it."""
    found = {GPU} if recipe.train.device not in ("cpu", "mps") else set()
    for kind, selected in recipe.selections.items():
        if kind == "storage" and recipe.storage.url is None:
            continue
        for item in selected:
            found.add(f"{kind}:{item.name}")
            try:
                found |= {package_need(module) for module in load(kind, item.name).requires}
            except PluginError:  # the recipe could not have been loaded with it
                continue
    return frozenset(found)


def check_recipe(recipe: Recipe) -> Iterator[Finding]:
    """Yield what keeps ``recipe`` from starting here, trackers and storage asked; train nothing."""
    from llmforge.run.plan import make_plan
    from llmforge.run.setup.preflight import require_all_ready

    plan = make_plan(recipe)
    notices: list[str] = []
    try:
        require_all_ready(plan, place=Place(), notice=notices.append)
    except RecipeError as error:
        yield from recipe_problems(error)
    else:
        yield ok("recipe.ready", f"{recipe.source}: ready to train as {plan.run_id}")
    for text in notices:
        yield warning("recipe.notice", text, remedy="")


def recipe_problems(error: RecipeError) -> Iterator[Finding]:
    """Yield each problem of a recipe as a finding."""
    for item in error.problems:
        where = ": ".join(part for part in (item.where, item.key) if part)
        remedy = item.remedy or "correct the recipe"
        text = f"{where}: {item.message}" if where else item.message
        yield problem("recipe.problem", text, remedy=remedy)
