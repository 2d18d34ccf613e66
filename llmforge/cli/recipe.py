"""``forge recipe``: check recipes, see what they resolve to, and get the shipped ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from llmforge.cli import options
from llmforge.cli.common import echo
from llmforge.errors import Problem, RecipeError, UsageError

app = typer.Typer(help="Check, show and copy recipes.", no_args_is_help=True)


@app.command()
def check(
    recipes: Annotated[list[str], typer.Argument(metavar="RECIPE", help="Files or names.")],
    profile: options.Profile = None,
    assignments: options.Assignments = None,
) -> None:
    """Check recipes without training; without --profile, each of their profiles too."""
    from llmforge.recipe.load import profiles_of

    problems: list[Problem] = []
    for source in recipes:
        try:
            chosen = [profile] if profile else [None, *profiles_of(source)]
        except RecipeError as error:
            problems += error.problems
            continue
        for name in chosen:
            try:
                summary = _summary(source, profile=name, assignments=assignments or [])
            except RecipeError as error:
                known = {(problem.where, problem.key) for problem in problems}
                problems += [item for item in error.problems if (item.where, item.key) not in known]
            else:
                echo(f"{source}{f' (profile {name})' if name else ''}: ok, {summary}")
    if problems:
        raise RecipeError(problems, source=recipes[0] if len(recipes) == 1 else "")


@app.command()
def show(
    recipe: options.Recipe,
    profile: options.Profile = None,
    assignments: options.Assignments = None,
    max_steps: options.MaxSteps = None,
    preset: options.Preset = None,
    samples: options.Samples = None,
    device: options.TrainDevice = None,
    project: options.Project = None,
    name: options.Name = None,
    defaults: Annotated[
        bool, typer.Option("--defaults/--no-defaults", help="Also show default values.")
    ] = True,
    as_json: options.AsJson = False,
) -> None:
    """Print the resolved recipe as TOML, with where each value came from."""
    from llmforge.recipe.show import as_mapping, as_text

    given = options.recipe_overrides(
        recipe,
        profile=profile,
        assignments=assignments,
        max_steps=max_steps,
        preset=preset,
        samples=samples,
        device=device,
        project=project,
        name=name,
    )
    if as_json:
        shown = as_mapping(recipe, profile=profile, overrides=given, defaults=defaults)
        echo(json.dumps(shown, indent=2))
    else:
        text = as_text(recipe, profile=profile, overrides=given, defaults=defaults)
        echo(text, nl=False)


@app.command()
def schema(
    output: options.Output = None,
) -> None:
    """Print the JSON Schema of recipes, for completion and checks in an editor."""
    from llmforge.recipe.json_schema import recipe_schema

    text = json.dumps(recipe_schema(), indent=2) + "\n"
    if output is None:
        echo(text, nl=False)
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{output} cannot be written: {error.strerror}") from error
    echo(f"{output}: name it in a recipe's first line as  #:schema {output}")


@app.command("list")
def list_recipes(as_json: options.AsJson = False) -> None:
    """List the recipes that come with llmforge."""
    from llmforge.recipe.shipped import shipped_recipes

    found = shipped_recipes()
    if as_json:
        rows = [
            {
                "name": item.name,
                "description": item.description,
                "profiles": list(item.profiles),
                "path": str(item.path),
            }
            for item in found
        ]
        echo(json.dumps(rows, indent=2))
        return
    width = max((len(item.name) for item in found), default=0)
    for item in found:
        echo(f"{item.name:<{width}}  {item.description}")
        if item.profiles:
            echo(f"{'':<{width}}  profiles: {', '.join(item.profiles)}")


@app.command()
def copy(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A shipped recipe.")],
    destination: Annotated[
        Path, typer.Argument(metavar="DEST", help="A folder or a file.", show_default=False)
    ] = Path(),
    force: options.Force = False,
) -> None:
    """Copy a shipped recipe, to change it."""
    from llmforge.recipe.shipped import copy_shipped

    echo(copy_shipped(name, destination=destination, force=force))


def _summary(source: str, *, profile: str | None, assignments: list[str]) -> str:
    from llmforge.recipe import load_generation, load_recipe, run_id
    from llmforge.recipe.load import only_generates

    if only_generates(source):
        loaded = load_generation(source, profile=profile, overrides=assignments)
        return f"generates with {loaded.generator.name}"
    recipe = load_recipe(source, profile=profile, overrides=assignments)
    if recipe.space is None:
        return f"run id {run_id(recipe)}"
    from llmforge.recipe.trials import check_trials

    check_trials(recipe, source, profile=profile, overrides=assignments)
    swept = ", ".join(item.key for item in recipe.space.dimensions)
    return f"run id {run_id(recipe)}, sweeps {swept}"
