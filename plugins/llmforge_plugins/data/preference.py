"""The data ``preference``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

import llmforge
from llmforge import Component, Problem, RunContext, hookimpl
from llmforge.interfaces import PREFERENCES, ExampleData

Paths = str | list[str]
COLUMNS = ("prompt", "chosen", "rejected", "system")


class PreferencePairs(Component, kind="data"):
    """Prompts with two answers, of which one is preferred.

    JSON, JSON Lines, CSV and Parquet files: paths, folders, globs and fsspec URLs, compressed or
    not. A row has ``prompt``, ``chosen`` and ``rejected``, each a text or messages, and perhaps
    ``system``. Where ``chosen`` and ``rejected`` are whole conversations, they have all but the
    last message in common, and that is the prompt.
    """

    supports = frozenset({"examples", PREFERENCES})

    class Options(llmforge.Options):
        """Options of ``[data.preference]``."""

        train: Paths | None = None
        """Training files."""
        path: Paths | None = None
        """Another name for ``train``."""
        sample: bool = False
        """Train on the bundled pairs instead of files: enough to try a recipe."""
        validation: Paths | None = None
        """Validation files; absent: ``validation_fraction`` of the training rows."""
        test: Paths | None = None
        """Test files."""
        validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.05
        """Share of the training rows that validates when ``validation`` is absent."""
        shuffle_seed: int = 0
        """Which rows those are."""
        columns: dict[str, str] = Field(default_factory=dict)
        """The file's column for one of these: ``{ chosen = "response_a" }``."""
        on_bad_row: Literal["error", "skip"] = "error"
        """What to do about a row that cannot be used: refuse the file, or leave the row out."""
        template: Annotated[str, Field(min_length=1)] = "auto"
        """How messages are laid out: ``auto`` (the tokenizer's own, else ``alpaca``), ``chatml``,
        ``alpaca``, ``plain``, or a Jinja file."""
        truncate: Literal["drop", "left", "right"] = "drop"
        """What becomes of a pair of which one conversation is longer than the context: it is left
        out, or each that is longer is cut on that side."""

        @field_validator("columns")
        @classmethod
        def _known_columns(cls, value: dict[str, str]) -> dict[str, str]:
            unknown = [name for name in value if name not in COLUMNS]
            if unknown:
                raise ValueError(f"'{unknown[0]}' is none of {', '.join(COLUMNS)}")
            return value

        @model_validator(mode="after")
        def _one_train(self) -> PreferencePairs.Options:
            given = [self.train is not None, self.path is not None, self.sample]
            if sum(given) != 1:
                raise ValueError(
                    "give the training files as train (or path), or sample = true; only one of them"
                )
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
        from llmforge_plugins.data._preference import build

        return build(self.options, run)
