"""What to say when a run exists under the id of a recipe that would train another one."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from llmforge.errors import RunError
from llmforge.recipe import Recipe
from llmforge.recipe.files import label_of
from llmforge.recipe.shipped import find_shipped
from llmforge.recipe.toml import parse_key
from llmforge.run_root import root_option

if TYPE_CHECKING:
    from llmforge.run.plan import Plan

_LENGTHS = ("train.max_steps", "train.epochs")


def another_recipe(plan: Plan, old: Mapping[str, Any], what: str) -> RunError:
    """Return the error that names the keys that differ, with both values.

    When only the length grew, the remedy is the command that continues the run to it.

    Args:
        plan: of the recipe that was given.
        old: identity keys of the run that exists, without those at their default.
        what: what happened to that run: started or completed.
    """
    new = plan.identity.keys
    changed = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    lines = [f"    {key}: {_shown(old, key)} in the run, {_shown(new, key)} now" for key in changed]
    clear = f"forge runs clear {plan.run_id}{root_option(plan.root)}"
    remedy = f"choose another run.id, or start it afresh: {clear}"
    if command := _extension(plan, old, changed):
        remedy = f"to continue it to the new length: {command}\n  or {remedy}"
    message = f"run {plan.run_id} was {what} with another recipe"
    return RunError("\n".join([f"{message}:", *lines] if lines else [message]), remedy=remedy)


def _extension(plan: Plan, old: Mapping[str, Any], changed: list[str]) -> str | None:
    """Return the command that extends the run, None when more than its length changed."""
    if len(changed) != 1 or changed[0] not in _LENGTHS:
        return None
    (key,) = changed
    before, now = old.get(key), plan.identity.keys.get(key)
    if before is None or now is None or now <= before:
        return None
    length = str(now) if key == "train.max_steps" else f"{now:g} epoch{'s' if now != 1 else ''}"
    arguments = [*_as_given(plan.recipe), "--set", f"{key}={before:g}", "--extend", length]
    return f"forge train {shlex.join(arguments)}"


def _as_given(recipe: Recipe) -> list[str]:
    """Return the arguments that make this recipe, without those about its length."""
    shipped = find_shipped(recipe.source.stem) == recipe.source
    arguments = [recipe.source.stem if shipped else label_of(recipe.source)]
    if recipe.profile is not None:
        arguments += ["--profile", recipe.profile]
    for key, origin in recipe.origins.items():
        value: Any = recipe.tables
        for part in parse_key(key):
            value = value.get(part) if isinstance(value, Mapping) else None
        was_given = str(origin).startswith("--") and value is not None
        if was_given and key not in (*_LENGTHS, "train.extend_to"):
            arguments += ["--set", f"{key}={json.dumps(value, ensure_ascii=False)}"]
    return arguments


def _shown(keys: Mapping[str, Any], key: str) -> str:
    return repr(keys[key]) if key in keys else "the default"
