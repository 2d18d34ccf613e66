"""Examples of known lengths, for the tests of rows, batches and packing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmforge.data.example_rows import ExampleSplit, prepare_examples
from llmforge.interfaces import Conversation, ExampleData, ExampleLayout, Message
from llmforge_plugins.tokenizers.bytes import ByteTokenizer


class Examples:
    """Prompts and answers of given lengths in bytes."""

    def __init__(self, *lengths: tuple[int, int], **layout: Any) -> None:
        self._lengths = lengths
        self.splits = ("train",)
        self.fingerprint = f"{lengths}"
        self.description = "made up"
        self.layout = ExampleLayout(template="plain", **layout)
        self.read = 0

    def examples(self, split: str) -> Iterator[Conversation]:
        assert split == "train"
        self.read += 1
        for number, (asked, answered) in enumerate(self._lengths):
            yield Conversation(
                messages=(
                    Message(role="user", content="u" * asked),
                    Message(role="assistant", content=chr(97 + number % 20) * answered),
                ),
                source=f"x.jsonl:{number + 1}",
            )


def prepare(data: Examples, cache: Path, *, context: int = 16) -> ExampleSplit:
    assert isinstance(data, ExampleData)
    return prepare_examples(
        data,
        ByteTokenizer(),
        context=context,
        cache=cache,
        notice=print,
        check_stop=lambda: None,
    )["train"]
