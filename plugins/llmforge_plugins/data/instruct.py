"""The data ``instruct``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

import llmforge
from llmforge import Component, Problem, RunContext, hookimpl
from llmforge.interfaces import ExampleData
from llmforge_plugins.data._conversations import COLUMNS
from llmforge_plugins.data._paths import Paths, WeightedPaths

Format = Literal["auto", "alpaca", "sharegpt", "messages", "prompt", "source"]


class Instruct(Component, kind="data"):
    """Conversations and instructions with their answers, of which the answers are learned.

    JSON, JSON Lines, CSV and Parquet files: paths, folders, globs and fsspec URLs, compressed or
    not. Which format the rows have is seen from their columns.
    """

    supports = frozenset({"examples", "answers"})

    class Options(llmforge.Options):
        """Options of ``[data.instruct]``."""

        train: WeightedPaths | None = None
        """Training files; ``{ "a.jsonl" = 2, "b/*.csv" = 0.5 }`` has each row of the first twice in
        an epoch, and half the rows of the others."""
        path: WeightedPaths | None = None
        """Another name for ``train``."""
        sample: bool = False
        """Train on the 207 bundled instructions instead of files: enough to try a recipe."""
        validation: Paths | None = None
        """Validation files; absent: ``validation_fraction`` of the training rows."""
        test: Paths | None = None
        """Test files."""
        validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.05
        """Share of the training rows that validates when ``validation`` is absent."""
        shuffle_seed: int = 0
        """Which rows those are."""
        format: Format = "auto"
        """``alpaca`` (instruction, input, output), ``sharegpt`` (conversations), ``messages``,
        ``prompt`` (prompt, completion), ``source`` (source, target), or ``auto``."""
        columns: dict[str, str] = Field(default_factory=dict)
        """The file's column for a column of the format: ``{ instruction = "question" }``."""
        on_bad_row: Literal["error", "skip"] = "error"
        """What to do about a row that cannot be used: refuse the file, or leave the row out."""
        template: Annotated[str, Field(min_length=1)] = "auto"
        """How messages are laid out: ``auto`` (the tokenizer's own, else ``alpaca``), ``chatml``,
        ``alpaca``, ``plain``, or a Jinja file."""
        train_on: Literal["responses", "last_response", "all"] = "responses"
        """What is learned."""
        truncate: Literal["drop", "left", "right", "split"] = "drop"
        """What becomes of an example longer than the context."""
        packing: Literal["auto", False] = "auto"
        """Put several examples into one row of the context, which is then what ``batch_size``
        counts: ``auto`` does where the model keeps them apart, ``false`` never."""

        @field_validator("columns")
        @classmethod
        def _known_columns(cls, value: dict[str, str]) -> dict[str, str]:
            known = sorted({name for names in COLUMNS.values() for name in names})
            unknown = [name for name in value if name not in known]
            if unknown:
                raise ValueError(f"'{unknown[0]}' is not a column of a format; {', '.join(known)}")
            return value

        @model_validator(mode="after")
        def _one_train(self) -> Instruct.Options:
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
        from llmforge_plugins.data._instruct import build

        return build(self.options, run)
