"""The data ``text``."""

from __future__ import annotations

import codecs
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

import llmforge
from llmforge import Component, Problem, RunContext, hookimpl
from llmforge.interfaces import Data

Paths = str | list[str]


class Text(Component, kind="data"):
    """Any text files: paths, folders (their ``.txt`` files), globs and fsspec URLs.

    Without validation files the end of the training text is set apart.
    """

    class Options(llmforge.Options):
        """Options of ``[data.text]``."""

        train: Paths | None = None
        """Training files."""
        path: Paths | None = None
        """Another name for ``train``."""
        validation: Paths | None = None
        """Validation files; absent: the last ``validation_fraction`` of the training text."""
        test: Paths | None = None
        """Test files."""
        validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.05
        """Share of the training text, at its end, that validates when ``validation`` is absent."""
        document: Literal["file", "blank_line", "line"] = "file"
        """What an end-of-text token is put after: a file, a paragraph, a line."""
        encoding: str = "utf-8"
        """Encoding of the files."""

        @field_validator("encoding")
        @classmethod
        def _known_encoding(cls, value: str) -> str:
            try:
                codecs.lookup(value)
            except LookupError:
                raise ValueError(f"Python knows no encoding '{value}'") from None
            return value

        @model_validator(mode="after")
        def _one_train(self) -> Text.Options:
            if (self.train is None) == (self.path is None):
                raise ValueError("give the training files as train (or path), not both")
            return self

    @hookimpl
    def forge_preflight(self, run: RunContext) -> list[Problem]:
        """Look for the local files."""
        from llmforge_plugins.data._patterns import local_problems
        from llmforge_plugins.data._text import SUFFIXES

        del run
        return local_problems(self.options, f"data.{self.name}", SUFFIXES)

    @hookimpl
    def forge_build_data(self, run: RunContext) -> Data:
        """Open the files, downloading those behind URLs into the cache."""
        from llmforge_plugins.data._text import build

        return build(self.options, run)
