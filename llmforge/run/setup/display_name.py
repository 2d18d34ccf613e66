"""What a run is called and tagged in trackers."""

from __future__ import annotations

import re
from datetime import datetime

from llmforge.recipe import Recipe

TIMESTAMP = "%Y%m%d-%H%M%S"
"""How ``{timestamp}`` is written, in local time."""


def display_name(recipe: Recipe, *, run_id: str, time: float) -> str:
    """Return the display name of a run from its template ``run.name``.

    Args:
        recipe: has the template, the model and the profile. Without a profile ``{profile}`` is
            left out together with the separator before it.
        run_id: the run's id, which is also the name when the template gives none.
        time: of the first start, in seconds since the epoch.
    """
    template = recipe.run.name
    if recipe.profile is None:
        template = re.sub(r"^\{profile\}[-_. /]?|[-_. /]?\{profile\}", "", template)
    values = {
        "{model}": model_name(recipe),
        "{profile}": recipe.profile or "",
        "{timestamp}": datetime.fromtimestamp(time).strftime(TIMESTAMP),
        "{run_id}": run_id,
    }
    for placeholder, value in values.items():
        template = template.replace(placeholder, value)
    return template or run_id


def tracker_tags(recipe: Recipe, *, run_id: str) -> list[str]:
    """Return the recipe's own tags, then model, profile and type of the run, each once."""
    kind = "trial" if run_id.startswith("tune_") else "single"
    tags = [*recipe.run.tags, model_name(recipe), recipe.profile, kind]
    return list(dict.fromkeys(tag for tag in tags if tag))


def model_name(recipe: Recipe) -> str:
    """Return the model component's name, with the preset when the recipe chooses one."""
    model = recipe.selected("model")
    chosen = "preset" in model.options.model_fields_set
    return f"{model.name}-{getattr(model.options, 'preset')}" if chosen else model.name  # noqa: B009
