"""What the data components over files of examples have in common, without a heavy package."""

from __future__ import annotations

from abc import ABC
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

import llmforge
from llmforge import Component, Problem, RunContext, hookimpl

Paths = str | list[str]
Weight = Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)]
WeightedPaths = Paths | Annotated[dict[str, Weight], Field(min_length=1)]
"""Paths, or with each how often an epoch has a row of it."""


class ExampleOptions(llmforge.Options):
    """Options of every component that reads files of examples.

    Attributes:
        known_columns: what ``columns`` may give another name.
    """

    known_columns: ClassVar[tuple[str, ...]]

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
    columns: dict[str, str] = Field(default_factory=dict)
    """The file's column for a column of the data: ``{ COLUMN = "its name in the file" }``."""
    on_bad_row: Literal["error", "skip"] = "error"
    """What to do about a row that cannot be used: refuse the file, or leave the row out."""

    @field_validator("columns")
    @classmethod
    def _columns_are_known(cls, value: dict[str, str]) -> dict[str, str]:
        unknown = [name for name in value if name not in cls.known_columns]
        if unknown:
            raise ValueError(f"'{unknown[0]}' is none of {', '.join(cls.known_columns)}")
        return value

    @model_validator(mode="after")
    def _one_train(self) -> Any:
        sample = getattr(self, "sample", None)  # of components that bundle one
        given = [self.train is not None, self.path is not None, bool(sample)]
        if sum(given) != 1:
            otherwise = "" if sample is None else ", or sample = true; only one of them"
            raise ValueError(f"give the training files as train (or path){otherwise}")
        return self


class ExampleComponent(Component, ABC):
    """What the components over files of examples share: their preflight."""

    @hookimpl
    def forge_preflight(self, run: RunContext) -> list[Problem]:
        """Look for the local files."""
        from llmforge_plugins.data._patterns import local_problems
        from llmforge_plugins.data._records import SUFFIXES

        del run
        return local_problems(self.options, f"data.{self.name}", SUFFIXES)
