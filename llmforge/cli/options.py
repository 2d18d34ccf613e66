"""Arguments and options that several commands take, each declared once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmforge.printable import decoded

if TYPE_CHECKING:
    from llmforge.recipe import Override

_SHORTCUTS = "Shortcuts for --set"


def option(
    *names: str,
    help: str,
    metavar: str | None = None,
    panel: str | None = None,
    min: float | None = None,
) -> Any:
    """Return an option without a default in its help: what is not given is the recipe's to say."""
    return typer.Option(
        *names, help=help, metavar=metavar, rich_help_panel=panel, min=min, show_default=False
    )


def argument(metavar: str, help: str) -> Any:
    """Return an argument whose help shows no default."""
    return typer.Argument(metavar=metavar, help=help, show_default=False)


# What a command is about -------------------------------------------------------------------

Recipe = Annotated[str, argument("RECIPE", "A recipe file, or the name of a shipped recipe.")]
Run = Annotated[str, argument("RUN", "A run id, or the beginning of one.")]
RunOrNewest = Annotated[
    str | None, argument("RUN", "A run id, or the beginning of one; absent: the newest run.")
]
Checkpoint = Annotated[
    str, argument("RUN_OR_CHECKPOINT", "RUN, RUN@best, RUN@last, RUN@STEP or a path.")
]
WhichCheckpoint = Annotated[
    str | None,
    option(
        "--checkpoint",
        metavar="WHICH",
        help="best, last or a step; without it the best, else the last.",
    ),
]

# Changes to a recipe -----------------------------------------------------------------------

Profile = Annotated[
    str | None,
    option("--profile", "-p", metavar="NAME", help="Profile of the recipe.", panel=_SHORTCUTS),
]
Assignments = Annotated[
    list[str] | None,
    option(
        "--set",
        metavar="KEY=VALUE",
        help="Set a recipe key, for example train.max_steps=20. Repeatable.",
        panel=_SHORTCUTS,
    ),
]
MaxSteps = Annotated[int | None, option("--max-steps", help="train.max_steps", panel=_SHORTCUTS)]
Preset = Annotated[
    str | None,
    option(
        "--model",
        "-m",
        metavar="NAME",
        help="A model of 'forge models list', or a preset of the recipe's own.",
        panel=_SHORTCUTS,
    ),
]
Samples = Annotated[
    int | None,
    option(
        "--samples",
        "-n",
        help="data.max_documents: train on this many only.",
        panel=_SHORTCUTS,
    ),
]
TrainDevice = Annotated[str | None, option("--device", help="train.device", panel=_SHORTCUTS)]
Project = Annotated[str | None, option("--project", help="run.project", panel=_SHORTCUTS)]
Name = Annotated[str | None, option("--name", help="run.name", panel=_SHORTCUTS)]

# Where a command looks, and what it prints or writes ---------------------------------------

Root = Annotated[
    Path | None,
    option(
        "--root", metavar="DIR", help="Directory of all runs; else FORGE_RUN_ROOT, else 'runs'."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Output = Annotated[Path | None, option("--output", "-o", metavar="FILE", help="Write it there.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything, train nothing.")]

# How a model is loaded ---------------------------------------------------------------------

_MACHINE = "Machine"

Device = Annotated[
    str, option("--device", help="auto (the default), cpu, cuda, cuda:N or mps.", panel=_MACHINE)
]
Dtype = Annotated[
    str,
    option(
        "--dtype",
        help="Weights as fp32, bf16, int8 (on a CPU) or auto (the default).",
        panel=_MACHINE,
    ),
]
Weights = Annotated[
    Path | None,
    option(
        "--weights",
        metavar="FILE",
        help="A .safetensors or .pt file whose weights replace the checkpoint's.",
        panel=_MACHINE,
    ),
]


def recipe_overrides(
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
        RecipeError: a model is named, and the recipe that it is for cannot be loaded.
        UsageError: an assignment is not one, or there is no such model.
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
        from llmforge.cli.model_names import model_overrides

        found += model_overrides(preset, load_recipe(recipe, profile=profile, overrides=found))
    return found


def _length(text: str | None) -> int | str | None:
    """Return steps as a number; what else it may be is the recipe's to judge."""
    return int(text) if text is not None and text.isdecimal() else text
