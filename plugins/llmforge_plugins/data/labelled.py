"""The data ``labelled``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

import llmforge
from llmforge import Component, Problem, RunContext, hookimpl
from llmforge.interfaces import ExampleData
from llmforge_plugins.data._paths import Paths, WeightedPaths

COLUMNS = ("text", "pair", "label")


class Labelled(Component, kind="data"):
    """Texts, each perhaps with a second one and a label.

    JSON, JSON Lines, CSV and Parquet files: paths, folders, globs and fsspec URLs, compressed or
    not, with the columns ``text``, ``pair`` and ``label``, of which the last two may be absent.
    """

    supports = frozenset({"examples", "labels"})

    class Options(llmforge.Options):
        """Options of ``[data.labelled]``."""

        train: WeightedPaths | None = None
        """Training files; ``{ "a.jsonl" = 2, "b/*.csv" = 0.5 }`` has each row of the first twice in
        an epoch, and half the rows of the others."""
        path: WeightedPaths | None = None
        """Another name for ``train``."""
        validation: Paths | None = None
        """Validation files; absent: ``validation_fraction`` of the training rows."""
        test: Paths | None = None
        """Test files."""
        validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.05
        """Share of the training rows that validates when ``validation`` is absent."""
        shuffle_seed: int = 0
        """Which rows those are."""
        labels: list[str] = Field(default_factory=list)
        """Names of the labels in the order of their numbers; empty: those of the training rows,
        sorted. A column of whole numbers from 0 on is taken as it is."""
        columns: dict[str, str] = Field(default_factory=dict)
        """The file's column for one of these: ``{ text = "review", label = "stars" }``."""
        on_bad_row: Literal["error", "skip"] = "error"
        """What to do about a row that cannot be used: refuse the file, or leave the row out."""
        truncate: Literal["drop", "left", "right", "split"] = "right"
        """What becomes of a text longer than the context; ``split`` makes several of it."""

        @field_validator("columns")
        @classmethod
        def _known_columns(cls, value: dict[str, str]) -> dict[str, str]:
            unknown = [name for name in value if name not in COLUMNS]
            if unknown:
                raise ValueError(f"'{unknown[0]}' is none of {', '.join(COLUMNS)}")
            return value

        @field_validator("labels")
        @classmethod
        def _distinct_labels(cls, value: list[str]) -> list[str]:
            if len(set(value)) < len(value):
                raise ValueError("a label is listed twice")
            return value

        @model_validator(mode="after")
        def _one_train(self) -> Labelled.Options:
            if (self.train is None) == (self.path is None):
                raise ValueError("give the training files as train (or path)")
            return self

    @hookimpl
    def forge_preflight(self, run: RunContext) -> list[Problem]:
        """Look for the local files."""
        from llmforge_plugins.data._patterns import local_problems
        from llmforge_plugins.data._records import SUFFIXES

        del run
        return local_problems(self.options, f"data.{self.name}", SUFFIXES)

    @hookimpl
    def forge_build_data(self, run: RunContext) -> ExampleData:
        """Open the files, downloading those behind URLs into the cache."""
        from llmforge_plugins.data._labelled import build

        return build(self.options, run)
