"""The data ``instruct``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llmforge import RunContext, hookimpl
from llmforge.interfaces import ExampleData
from llmforge_plugins.data._conversations import COLUMNS
from llmforge_plugins.data._example_options import ExampleComponent, ExampleOptions

Format = Literal["auto", "alpaca", "sharegpt", "messages", "prompt", "source"]


class Instruct(ExampleComponent, kind="data"):
    """Conversations and instructions with their answers, of which the answers are learned.

    JSON, JSON Lines, CSV and Parquet files: paths, folders, globs and fsspec URLs, compressed or
    not. Which format the rows have is seen from their columns.
    """

    supports = frozenset({"examples", "answers"})

    class Options(ExampleOptions):
        """Options of ``[data.instruct]``."""

        known_columns = tuple(sorted({name for names in COLUMNS.values() for name in names}))

        sample: bool = False
        """Train on the 207 bundled instructions instead of files: enough to try a recipe."""
        format: Format = "auto"
        """``alpaca`` (instruction, input, output), ``sharegpt`` (conversations), ``messages``,
        ``prompt`` (prompt, completion), ``source`` (source, target), or ``auto``."""
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

    @hookimpl
    def forge_build_data(self, run: RunContext) -> ExampleData:
        """Open the files, downloading those behind URLs into the cache."""
        from llmforge_plugins.data._instruct import build

        return build(self.options, run)
