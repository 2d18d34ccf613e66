"""A sweep on disk: its id, its directory, the recipe its trials are made of."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmforge.errors import Problem, RecipeError, RunError
from llmforge.interfaces import Space, Sweeper
from llmforge.plugins import build_manager, call_factory, load
from llmforge.recipe import Recipe, identity, load_recipe, to_toml
from llmforge.recipe.load import Overrides, merged_tables
from llmforge.recipe.trials import check_trials, load_trial
from llmforge.rundir.atomic import write_json, write_text
from llmforge.sweeps.ledger import Ledger
from llmforge.sweeps.next_trial import Goal
from llmforge.sweeps.trial_storage import open_storage

SWEEPS = "sweeps"
"""Holds the sweeps, below the directory of all runs."""

_SHORT = 6
FORMAT_VERSION = 1


@dataclass(frozen=True)
class SweepDirectory:
    """The paths inside one sweep's directory."""

    path: Path

    @property
    def id(self) -> str:
        """The sweep's id, which is the directory's name."""
        return self.path.name

    @property
    def root(self) -> Path:
        """The directory of all runs."""
        return self.path.parent.parent

    @property
    def record(self) -> Path:
        """What the sweep is about."""
        return self.path / "sweep.json"

    @property
    def recipe(self) -> Path:
        """The sweep's recipe as one document."""
        return self.path / "recipe.toml"

    @property
    def journal(self) -> Path:
        """The trials, unless a database keeps them."""
        return self.path / "journal.log"

    @property
    def logs(self) -> Path:
        """What trials printed, a file per run."""
        return self.path / "logs"

    @property
    def plots(self) -> Path:
        """Pictures."""
        return self.path / "plots"

    @property
    def report(self) -> Path:
        """One page with everything on it."""
        return self.path / "report.html"

    @property
    def best(self) -> Path:
        """The recipe of the best trial."""
        return self.path / "best.toml"


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep and everything it needs to work.

    Attributes:
        directory: where it is.
        recipe: what it was read from, ``[sweep]`` included.
        space: what is tried.
    """

    directory: SweepDirectory
    recipe: Recipe
    space: Space

    @property
    def id(self) -> str:
        """The sweep's id."""
        return self.directory.id

    def ledger(self, *, wait: bool = False) -> Ledger:
        """Open the ledger; each process opens its own.

        Args:
            wait: for a database that does not answer, rather than say so at once.

        Raises:
            ForgeError: it cannot be opened.
        """
        keys = self.recipe.sweep
        storage = open_storage(keys.study, journal=self.directory.journal, wait=wait)
        return Ledger(storage, self.id, direction=keys.direction)

    def goal(self) -> Goal:
        """Return what the sweep is after, with its sweeper built."""
        return Goal(keys=self.recipe.sweep, space=self.space, sweeper=build_sweeper(self.recipe))

    def trial(self, parameters: Mapping[str, Any], *, repeat: int = 0) -> Recipe:
        """Return the recipe of a trial; ``parameters`` with tied values.

        Raises:
            RecipeError: the parameters make no valid recipe.
        """
        return load_trial(
            self.directory.recipe,
            parameters,
            profile=self.recipe.profile,
            seed=self.recipe.run.seed + repeat if repeat else None,
            name=self.recipe.sweep.trial_name,
        )


def build_sweeper(recipe: Recipe) -> Sweeper:
    """Build the sweeper that ``recipe`` selects.

    Raises:
        RecipeError: a package it needs is missing.
    """
    selection = recipe.selected("sweep")
    component = load("sweep", selection.name)(selection.options)
    if problems := component.missing_packages():
        raise RecipeError(problems, source=str(recipe.source))
    sweeper: Sweeper = call_factory(
        build_manager([component]),
        "forge_build_sweeper",
        space=recipe.space,
        direction=recipe.sweep.direction,
        seed=recipe.sweep.seed,
    )
    return sweeper


def open_sweep(
    source: str | Path, *, profile: str | None = None, overrides: Overrides = ()
) -> Sweep:
    """Begin the sweep of a recipe, or take up the one there is; nothing is tried yet.

    Raises:
        RecipeError: the recipe has problems, or a point of its space has.
        RunError: under this id lies a sweep of something else.
    """
    recipe = load_recipe(source, profile=profile, overrides=overrides)
    if recipe.space is None:
        names = "grid, random or optuna"
        problem = Problem(
            key="sweep",
            message="the recipe has no [sweep] table",
            remedy=f'add [sweep] with name = "..." ({names}) and [sweep.space]; '
            "see docs/how-to/sweep.md",
        )
        raise RecipeError([problem], source=str(source))
    check_trials(recipe, source, profile=profile, overrides=overrides)
    build_sweeper(recipe)
    own = recipe.sweep.id or f"{_stem(recipe)}-{_about_hash(recipe)[:_SHORT]}"
    directory = SweepDirectory(Path(recipe.run.root).expanduser() / SWEEPS / own)
    _check_same(directory, recipe)
    directory.logs.mkdir(parents=True, exist_ok=True)
    tables = merged_tables(source, profile=profile, overrides=overrides)
    write_text(directory.recipe, to_toml(tables))
    write_json(
        directory.record,
        {
            "format_version": FORMAT_VERSION,
            "id": own,
            "source": str(recipe.source),
            "profile": profile,
            "about": _about(recipe),
        },
    )
    return Sweep(directory=directory, recipe=recipe, space=recipe.space)


def load_sweep(directory: SweepDirectory) -> Sweep:
    """Return the sweep that is in ``directory``.

    Raises:
        RunError: there is none, or it cannot be read.
    """
    try:
        record = json.loads(directory.record.read_bytes())
    except FileNotFoundError:
        raise RunError(f"{directory.path} is not a sweep") from None
    except (OSError, ValueError) as error:
        raise RunError(
            f"{directory.record} cannot be read: {error}",
            remedy="the same 'forge sweep' command writes it again",
        ) from error
    recipe = load_recipe(directory.recipe, profile=record.get("profile"))
    space = recipe.space
    if space is None:
        raise RunError(f"{directory.recipe} has no [sweep] table")
    recipe = replace(
        recipe,
        source=Path(record["source"]),
        run=recipe.run.model_copy(update={"root": str(directory.root)}),
    )
    return Sweep(directory=directory, recipe=recipe, space=space)


def find_sweeps(root: Path) -> list[SweepDirectory]:
    """Return the sweeps below ``root``, in order of id."""
    base = root / SWEEPS
    found = sorted(base.iterdir()) if base.is_dir() else []
    return [SweepDirectory(path) for path in found if (path / "sweep.json").exists()]


def find_sweep(root: Path, text: str) -> SweepDirectory:
    """Return the sweep whose id is ``text`` or begins with it.

    Raises:
        RunError: none does, or several do.
    """
    every = find_sweeps(root)
    exact = [item for item in every if item.id == text]
    matches = exact or [item for item in every if item.id.startswith(text)]
    if len(matches) == 1:
        return matches[0]
    listed = ", ".join(item.id for item in matches or every)
    if matches:
        raise RunError(f"'{text}' matches several sweeps: {listed}", remedy="give more of the id")
    remedy = f"there are: {listed}" if every else "begin one: forge sweep wikitext_tiny_sweep"
    raise RunError(f"no sweep '{text}' in {root}", remedy=remedy)


def newest_sweep(root: Path) -> SweepDirectory:
    """Return the sweep that was started last.

    Raises:
        RunError: there is none.
    """
    every = find_sweeps(root)
    if not every:
        raise RunError(f"no sweeps in {root}", remedy="start one: forge sweep wikitext_tiny_sweep")
    return max(every, key=lambda item: item.record.stat().st_mtime)


def _stem(recipe: Recipe) -> str:
    return re.sub(r"[^A-Za-z0-9._+-]", "-", recipe.source.stem) or "sweep"


def _about(recipe: Recipe) -> dict[str, str]:
    """Return what must stay the same as long as trials are compared with each other."""
    keys = recipe.sweep
    return {
        "metric": keys.metric,
        "direction": keys.direction,
        "recipe": identity(recipe).hash,
    }


def _about_hash(recipe: Recipe) -> str:
    return hashlib.sha256(json.dumps(_about(recipe), sort_keys=True).encode()).hexdigest()


def _check_same(directory: SweepDirectory, recipe: Recipe) -> None:
    if not directory.record.exists():
        return
    try:
        known = json.loads(directory.record.read_bytes()).get("about", {})
    except ValueError:
        return  # it is written again
    now = _about(recipe)
    differing = [key for key in now if known.get(key) != now[key]]
    if differing:
        what = {"recipe": "values outside [sweep]"}
        listed = ", ".join(what.get(key, f"sweep.{key}") for key in differing)
        raise RunError(
            f"sweep {directory.id} was started with other {listed}",
            remedy="choose another sweep.id: trials of the two cannot be compared",
        )
