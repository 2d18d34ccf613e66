"""The data ``text``."""

from __future__ import annotations

import codecs
import re
from typing import Annotated

from pydantic import Field, field_validator, model_validator

import llmforge
from llmforge import Component, Problem, RunContext, hookimpl
from llmforge.interfaces import Data
from llmforge_plugins.data._documents import KINDS

Paths = str | list[str]


class Text(Component, kind="data"):
    """Any text files: paths, folders (their ``.txt`` files), globs and fsspec URLs.

    Files compressed with gzip, xz, bzip2 or Zstandard are read as they are.

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
        document: Annotated[str, Field(min_length=1)] = "file"
        """What an end-of-text token is put after: a ``file``, a paragraph (``blank_line``), a
        ``line``, or the text before a delimiter such as ``"<|endoftext|>"``, which is dropped."""
        encoding: str = "utf-8"
        """Encoding of the files; a byte order mark tells which of Unicode's it is."""

        @field_validator("document")
        @classmethod
        def _known_document(cls, value: str) -> str:
            if value not in KINDS and re.fullmatch(r"[\w -]+", value):
                raise ValueError(
                    f"must be {', '.join(KINDS)} or a delimiter such as <|endoftext|>, which has "
                    f"more than letters, got '{value}'"
                )
            return value

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
