"""Loading a recipe: files, profile, environment and overrides into one checked :class:`Recipe`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from llmforge.component import KINDS
from llmforge.errors import Problem, RecipeError
from llmforge.options import Options, closest
from llmforge.recipe.check import METRIC, Check, leaves
from llmforge.recipe.files import Document, read_documents
from llmforge.recipe.notify import NotifyTable
from llmforge.recipe.overrides import Layers, Override, as_overrides
from llmforge.recipe.resolved import Origin, Recipe, Selection
from llmforge.recipe.schema import (
    BY_ADDRESS,
    CORE_TABLES,
    DEFAULT_COMPONENTS,
    KIND_KEYS,
    LATER_KINDS,
    BackendKeys,
    CheckpointTable,
    DataKeys,
    DeployKeys,
    EarlyStoppingTable,
    EvalTable,
    ExportTable,
    GenerationKeys,
    MetricKeys,
    RunTable,
    StorageKeys,
    SweepKeys,
    TrackerKeys,
    TrainTable,
)
from llmforge.recipe.toml import dotted
from llmforge.run_root import VARIABLE, configured_root

DEFAULT = Origin("default")

Overrides = Sequence[Override | str] | Mapping[str, Any]

_ORDER = (
    "run",
    "model",
    "adapter",
    "tokenizer",
    "data",
    "objective",
    "train",
    "optimizer",
    "schedule",
    "eval",
    "early_stopping",
    "checkpoint",
    "export",
    "notify",
    "backend",
    "tracker",
    "callback",
    "storage",
    "sweep",
    "generation",
    "metric",
    "deploy",
)


@dataclass(frozen=True, kw_only=True)
class GenerationRecipe:
    """What ``forge generate --recipe`` needs: no model, no data.

    Attributes:
        source: the file it was read from.
        run: the ``[run]`` table, whose ``root`` says where runs are looked for.
        generation: the ``[generation]`` keys; ``checkpoint`` addresses what to sample from.
        generator: the selected generator with its options.
        tables: the resolved tables, defaults included.
        origins: where each value came from, by dotted key.
    """

    source: Path
    run: RunTable
    generation: GenerationKeys
    generator: Selection
    tables: Mapping[str, Any]
    origins: Mapping[str, Origin]


def load_recipe(
    source: str | Path, *, profile: str | None = None, overrides: Overrides = ()
) -> Recipe:
    """Read, merge and check a recipe.

    Args:
        source: a recipe file, or the name of a shipped recipe.
        profile: the ``[profile.NAME]`` to lay over it.
        overrides: ``key=value`` texts and :class:`Override` items, or a mapping of dotted keys or
            nested tables; they win over everything else.

    Raises:
        RecipeError: with every problem of the recipe.
        UsageError: an override that is not an assignment.
    """
    path, check, layers = _checked(source, profile, overrides, complete=True)
    tables = _resolved(check)
    return Recipe(
        source=path,
        profile=profile,
        run=cast("RunTable", check.tables["run"]),
        train=cast("TrainTable", check.tables["train"]),
        eval=cast("EvalTable", check.tables["eval"]),
        early_stopping=cast("EarlyStoppingTable", check.tables["early_stopping"]),
        checkpoint=cast("CheckpointTable", check.tables["checkpoint"]),
        export=cast("ExportTable", check.tables["export"]),
        notify=_notify(check),
        data=cast("DataKeys", check.tables["data"]),
        generation=cast("GenerationKeys", check.tables["generation"]),
        metric=cast("MetricKeys", check.tables["metric"]),
        backend=cast("BackendKeys", check.tables["backend"]),
        tracker=cast("TrackerKeys", check.tables["tracker"]),
        storage=cast("StorageKeys", check.tables["storage"]),
        deploy=cast("DeployKeys", check.tables["deploy"]),
        sweep=cast("SweepKeys", check.tables["sweep"]),
        space=check.space,
        selections=check.selections,
        tables=tables,
        origins=_origins(tables, layers),
    )


def load_generation(
    source: str | Path, *, profile: str | None = None, overrides: Overrides = ()
) -> GenerationRecipe:
    """Read the generation part of a recipe, which need not say how to train anything.

    Raises:
        RecipeError: with every problem of what the recipe holds.
    """
    given = as_overrides(overrides)
    path, check, layers = _checked(source, profile, given, complete=False)
    if "generation" not in layers.values:
        problem = Problem(key="generation", message="the recipe says nothing about generation")
        raise RecipeError([problem], source=str(source))
    generator = check.selections["generation"][0]
    run = check.tables.get("run") or RunTable()
    tables = {"run": _dump(run), "generation": _resolved(check)["generation"]}
    return GenerationRecipe(
        source=path,
        run=cast("RunTable", run),
        generation=cast("GenerationKeys", check.tables["generation"]),
        generator=generator,
        tables=tables,
        origins=_origins(tables, layers),
    )


def merged_tables(
    source: str | Path, *, profile: str | None = None, overrides: Overrides = ()
) -> dict[str, Any]:
    """Return a recipe as one document: what it extends, its profile and overrides laid together.

    Unlike the resolved tables these keep options of components that are not selected.
    """
    merged = _merged(read_documents(source), profile, as_overrides(overrides)).values
    webhook = merged.get("notify", {}).get("webhook", {})
    webhook.pop("url", None)  # nothing keeps it
    return merged if profile is None else {**merged, "profile": {profile: {}}}


def profiles_of(source: str | Path) -> tuple[str, ...]:
    """Return the profiles a recipe defines or inherits."""
    return _profiles(read_documents(source))


def only_generates(source: str | Path) -> bool:
    """Return whether a recipe is for ``forge generate`` alone: it has no part about training."""
    names = {name for document in read_documents(source) for name in document.tables}
    return "generation" in names and names <= {"run", "generation"}


def _notify(check: Check) -> NotifyTable:
    table = cast("NotifyTable", check.tables["notify"])
    table.hide_secrets()
    return table


def _checked(
    source: str | Path, profile: str | None, overrides: Overrides, *, complete: bool
) -> tuple[Path, Check, Layers]:
    documents = read_documents(source)
    label = documents[-1].label
    layers = _merged(documents, profile, as_overrides(overrides))
    check = Check(layers, label=label, complete=complete)
    if check.problems:
        raise RecipeError(check.problems, source=label)
    return documents[-1].path, check, layers


def _merged(documents: list[Document], profile: str | None, overrides: list[Override]) -> Layers:
    layers = Layers()
    for document in documents:
        layers.begin()
        layers.add(document.tables, origin=document.origin)
    if profile is not None:
        _add_profile(layers, documents, profile)
    if root := configured_root():
        layers.begin()
        layers.add({"run": {"root": root}}, origin=lambda _: Origin(VARIABLE))
    layers.begin()
    for override in overrides:
        if override.value is None:
            layers.remove(override.path)
            continue
        value = override.value
        for part in reversed(override.path):
            value = {part: value}
        layers.add(value, origin=lambda _, text=override.origin: Origin(text))  # type: ignore[misc]
    return layers


def _add_profile(layers: Layers, documents: list[Document], profile: str) -> None:
    known = _profiles(documents)
    if profile not in known:
        label = documents[-1].label
        near = closest(profile, known)
        listed = f"known profiles: {', '.join(known)}" if known else "it has no profiles"
        remedy = f"did you mean '{near}'? {listed}" if near else listed
        problem = Problem(message=f"unknown profile '{profile}'", where=label, remedy=remedy)
        raise RecipeError([problem], source=label)
    for document in documents:
        if profile in document.profiles:
            layers.begin()
            layers.add(
                document.profiles[profile],
                origin=lambda path, document=document: document.profile_origin(profile, path),  # type: ignore[misc]
            )


def _profiles(documents: list[Document]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for document in documents for name in document.profiles))


def _resolved(check: Check) -> dict[str, Any]:
    """Return the recipe as plain tables: defaults included, selected components only."""
    tables: dict[str, Any] = {}
    for name in _ORDER:
        if name in CORE_TABLES:
            # what came when there were runs already is left out of recipes that do not use it
            if name in check.tables and check.tables[name] not in (ExportTable(), NotifyTable()):
                tables[name] = _dump(check.tables[name])
            continue
        table = _kind_table(name, check)
        if table:
            tables[name] = table
    return tables


def _kind_table(name: str, check: Check) -> dict[str, Any]:
    chosen = check.selections.get(name, ())
    if KINDS[name].optional and not chosen:
        return {}
    if name == METRIC and not chosen and check.tables[name] == KIND_KEYS[name]():
        return {}
    if name in BY_ADDRESS and not chosen and check.tables[name] == KIND_KEYS[name]():
        return {}
    if name in LATER_KINDS and chosen and chosen[0].name == DEFAULT_COMPONENTS[name]:
        return {}
    table: dict[str, Any] = {}
    if KINDS[name].many:
        table["names"] = [selection.name for selection in chosen]
    elif chosen and name not in BY_ADDRESS:
        table["name"] = chosen[0].name
    table |= _dump(check.tables[name])
    table |= {selection.name: _dump(selection.options) for selection in chosen}
    return {} if table == {"names": []} else table


def _dump(options: Options) -> dict[str, Any]:
    """Return options as TOML values, in the order they are declared."""
    return options.model_dump(mode="json", exclude_none=True)


def _origins(tables: Mapping[str, Any], layers: Layers) -> dict[str, Origin]:
    return {dotted(path): layers.origins.get(path, DEFAULT) for path, _ in leaves(tables)}
