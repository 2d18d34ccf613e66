"""A resolved recipe: every value typed, every component selected, every origin known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmforge.interfaces import Space
from llmforge.options import Options
from llmforge.recipe.notify import NotifyTable
from llmforge.recipe.schema import (
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


@dataclass(frozen=True)
class Origin:
    """Where a value was written: a file and line, ``--set``, a profile, or a default."""

    text: str
    line: int | None = None

    def __str__(self) -> str:
        return f"{self.text}:{self.line}" if self.line else self.text


@dataclass(frozen=True)
class Selection:
    """One component a recipe selects, with its checked options."""

    kind: str
    name: str
    options: Options


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A recipe after inheritance, profile and overrides, checked as a whole.

    Attributes:
        source: the file it was read from.
        profile: the profile applied, or None.
        space: what ``[sweep.space]`` says; None for a recipe without a sweep.
        selections: per kind, the selected components in order.
        tables: the resolved recipe as nested plain tables, defaults included, with only the
            selected components' options; what ``recipe.toml`` in a run holds.
        origins: where each value of ``tables`` came from, by dotted key.
    """

    source: Path
    profile: str | None
    run: RunTable
    train: TrainTable
    eval: EvalTable
    early_stopping: EarlyStoppingTable
    checkpoint: CheckpointTable
    export: ExportTable
    notify: NotifyTable
    data: DataKeys
    generation: GenerationKeys
    metric: MetricKeys
    backend: BackendKeys
    tracker: TrackerKeys
    storage: StorageKeys
    deploy: DeployKeys
    sweep: SweepKeys
    space: Space | None = None
    selections: Mapping[str, tuple[Selection, ...]]
    tables: Mapping[str, Any]
    origins: Mapping[str, Origin] = field(default_factory=dict)

    def selected(self, kind: str) -> Selection:
        """Return the one component selected for ``kind``."""
        return self.selections[kind][0]

    @property
    def context(self) -> int:
        """Sequence length in tokens, an option every model has."""
        return int(getattr(self.selected("model").options, "context"))  # noqa: B009

    @property
    def learning_rate(self) -> float:
        """Peak learning rate, an option every optimizer has."""
        return float(getattr(self.selected("optimizer").options, "lr"))  # noqa: B009
