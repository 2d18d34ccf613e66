"""Options that each set one recipe key: short for ``--set``, on commands that take a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmforge.printable import decoded

if TYPE_CHECKING:
    from llmforge.recipe import Override

_PANEL = "Shortcuts for --set"


def _option(*names: str, help: str, metavar: str | None = None) -> Any:
    """Return an option without a default of its own: what is not given is the recipe's to say."""
    return typer.Option(
        *names, help=help, metavar=metavar, rich_help_panel=_PANEL, show_default=False
    )


Profile = Annotated[
    str | None, _option("--profile", "-p", metavar="NAME", help="Profile of the recipe.")
]
Assignments = Annotated[
    list[str] | None,
    _option(
        "--set",
        metavar="KEY=VALUE",
        help="Set a recipe key, for example train.max_steps=20. Repeatable.",
    ),
]
MaxSteps = Annotated[int | None, _option("--max-steps", help="train.max_steps")]
Preset = Annotated[
    str | None, _option("--model", "-m", metavar="PRESET", help="Preset of the model.")
]
Samples = Annotated[
    int | None, _option("--samples", "-n", help="data.max_documents: train on this many only.")
]
Device = Annotated[str | None, _option("--device", help="train.device")]
Project = Annotated[str | None, _option("--project", help="run.project")]
Name = Annotated[str | None, _option("--name", help="run.name")]


def overrides(
    recipe: str,
    *,
    profile: str | None = None,
    assignments: Sequence[str] | None = None,
    max_steps: int | None = None,
    preset: str | None = None,
    samples: int | None = None,
    device: str | None = None,
    project: str | None = None,
    name: str | None = None,
    extend: str | None = None,
) -> list[Override]:
    """Return ``--set`` and then the shortcuts as overrides that remember which flag they are of.

    Raises:
        RecipeError: a preset is given, and which model it is of cannot be determined.
        UsageError: an assignment is not one.
    """
    from llmforge.recipe import Override, load_recipe, parse_set

    found = [parse_set(text) for text in assignments or ()]
    flags: Mapping[str, tuple[tuple[str, ...], Any]] = {
        "--max-steps": (("train", "max_steps"), max_steps),
        "--samples": (("data", "max_documents"), samples),
        "--device": (("train", "device"), device),
        "--project": (("run", "project"), project),
        "--name": (("run", "name"), name),
        "--extend": (("train", "extend_to"), _length(extend)),
    }
    found += [
        Override(path, decoded(value) if isinstance(value, str) else value, origin=flag)
        for flag, (path, value) in flags.items()
        if value is not None
    ]
    if preset is not None:
        model = load_recipe(recipe, profile=profile, overrides=found).selected("model").name
        found.append(Override(("model", model, "preset"), preset, origin="--model"))
    return found


def _length(text: str | None) -> int | str | None:
    """Return steps as a number; what else it may be is the recipe's to judge."""
    return int(text) if text is not None and text.isdecimal() else text
