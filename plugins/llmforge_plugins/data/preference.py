"""The data ``preference``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llmforge import RunContext, hookimpl
from llmforge.interfaces import PREFERENCES, ExampleData
from llmforge_plugins.data._example_options import ExampleComponent, ExampleOptions


class PreferencePairs(ExampleComponent, kind="data"):
    """Prompts with two answers, of which one is preferred.

    JSON, JSON Lines, CSV and Parquet files: paths, folders, globs and fsspec URLs, compressed or
    not. A row has ``prompt``, ``chosen`` and ``rejected``, each a text or messages, and perhaps
    ``system``. Where ``chosen`` and ``rejected`` are whole conversations, they have all but the
    last message in common, and that is the prompt.
    """

    supports = frozenset({"examples", PREFERENCES})

    class Options(ExampleOptions):
        """Options of ``[data.preference]``."""

        known_columns = ("prompt", "chosen", "rejected", "system")

        sample: bool = False
        """Train on the bundled pairs instead of files: enough to try a recipe."""
        template: Annotated[str, Field(min_length=1)] = "auto"
        """How messages are laid out: ``auto`` (the tokenizer's own, else ``alpaca``), ``chatml``,
        ``alpaca``, ``plain``, or a Jinja file."""
        truncate: Literal["drop", "left", "right"] = "drop"
        """What becomes of a pair of which one conversation is longer than the context: it is left
        out, or each that is longer is cut on that side."""

    @hookimpl
    def forge_build_data(self, run: RunContext) -> ExampleData:
        """Open the files, downloading those behind URLs into the cache."""
        from llmforge_plugins.data._preference import build

        return build(self.options, run)
