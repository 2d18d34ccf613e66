"""Files of instructions and conversations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmforge import RunContext
from llmforge.interfaces import Conversation, ExampleLayout
from llmforge_plugins.data._conversations import conversation, find_format
from llmforge_plugins.data._example_files import ExampleFiles, Sources, example_files

SAMPLE = Path(__file__).parent / "sample" / "instructions.jsonl"


class InstructData(ExampleFiles):
    """Conversations of files; see :class:`ExampleFiles`."""

    component = "instruct"

    def __init__(self, sources: Sources, options: Any, run: RunContext) -> None:
        self._format = options.format
        super().__init__(sources, options, run)

    @property
    def form(self) -> str:
        """The format of the rows."""
        return str(self._format)

    def make_layout(self) -> ExampleLayout:
        """Return how conversations become rows of tokens."""
        options = self._options
        return ExampleLayout(
            template=options.template,
            train_on=options.train_on,
            truncate=options.truncate,
            packing=options.packing,
        )

    def convert(self, row: Any, place: str, split: str) -> Conversation:
        """Return a row as a conversation; the first says which format all have."""
        del split
        if self._format == "auto":
            self._format = find_format(row, self._options.columns)
        return conversation(row, source=place, layout=self._format, columns=self._options.columns)

    def text(self, example: Conversation) -> str:
        """Return what is said."""
        return "\n".join(message.content for message in example.messages)

    def rules(self) -> list[Any]:
        """Return the format."""
        return [self._format]


def build(options: Any, run: RunContext) -> InstructData:
    """Find the files and look at every row.

    Raises:
        DataError: a pattern matches nothing, or a file or row cannot be used.
    """
    if options.sample:
        options = options.model_copy(update={"path": str(SAMPLE)})
    return InstructData(example_files(options, "instruct", run), options, run)
