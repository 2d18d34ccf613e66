"""The data ``labelled``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from llmforge import RunContext, hookimpl
from llmforge.interfaces import ExampleData
from llmforge_plugins.data._example_options import ExampleComponent, ExampleOptions


class Labelled(ExampleComponent, kind="data"):
    """Texts, each perhaps with a second one and a label.

    JSON, JSON Lines, CSV and Parquet files: paths, folders, globs and fsspec URLs, compressed or
    not, with the columns ``text``, ``pair`` and ``label``, of which the last two may be absent.
    """

    supports = frozenset({"examples", "labels"})

    class Options(ExampleOptions):
        """Options of ``[data.labelled]``."""

        known_columns = ("text", "pair", "label")

        labels: list[str] = Field(default_factory=list)
        """Names of the labels in the order of their numbers; empty: those of the training rows,
        sorted. A column of whole numbers from 0 on is taken as it is."""
        truncate: Literal["drop", "left", "right", "split"] = "right"
        """What becomes of a text longer than the context; ``split`` makes several of it."""

        @field_validator("labels")
        @classmethod
        def _distinct_labels(cls, value: list[str]) -> list[str]:
            if len(set(value)) < len(value):
                raise ValueError("a label is listed twice")
            return value

    @hookimpl
    def forge_build_data(self, run: RunContext) -> ExampleData:
        """Open the files, downloading those behind URLs into the cache."""
        from llmforge_plugins.data._labelled import build

        return build(self.options, run)
