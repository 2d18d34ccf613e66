"""Files of instructions and conversations as examples in splits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmforge import RunContext, track
from llmforge.errors import DataError
from llmforge.interfaces import Conversation, ExampleLayout
from llmforge_plugins.data._conversations import conversation, find_format
from llmforge_plugins.data._files import sha256_of
from llmforge_plugins.data._patterns import SPLITS, fetched, find_files
from llmforge_plugins.data._records import SUFFIXES, read_records

SAMPLE = Path(__file__).parent / "sample" / "instructions.jsonl"

_FILES_NAMED = 3
_BAD_ROWS_NAMED = 3


class InstructData:
    """Examples of files, in their order.

    Every row is looked at once here, so that a bad one is reported before anything is trained.

    Args:
        files: the files of each split in order.
        options: of ``[data.instruct]``.
        run: told which rows are left out.

    Raises:
        DataError: a file or row cannot be used.
    """

    def __init__(self, files: dict[str, list[Path]], options: Any, run: RunContext) -> None:
        self._files = files
        self._options = options
        self._format = options.format
        self._counts: dict[str, int] = {}
        self._bad: dict[str, frozenset[int]] = {}
        for split in files:
            self._look_at(split, run)
        self._held_out = self._choose_validation()
        self.splits: Sequence[str] = tuple(
            split for split in SPLITS if split in files or split == "validation"
        )
        self.layout = ExampleLayout(
            template=options.template,
            train_on=options.train_on,
            truncate=options.truncate,
            packing=options.packing,
        )
        self.fingerprint = self._fingerprint()
        names = [path.name for paths in files.values() for path in paths]
        listed = f" ({', '.join(names)})" if len(names) <= _FILES_NAMED else ""
        total = sum(self._counts.values())
        self.description = (
            f"{total:,} examples ({self._format}) in {len(names)} "
            f"file{'s' if len(names) != 1 else ''}{listed}"
        )
        self.files = tuple(str(path) for paths in files.values() for path in paths)

    def examples(self, split: str) -> Iterator[Conversation]:
        """Yield the examples of ``split``."""
        if self._held_out is None or split == "test":
            yield from self._rows(split)
            return
        wanted = split == "validation"
        for place, example in enumerate(self._rows("train")):
            if self._held_out[place] == wanted:
                yield example

    def iter_text(self, split: str) -> Iterator[str]:
        """Yield what is said, for a tokenizer that is trained on it."""
        for example in self.examples(split):
            yield "\n".join(message.content for message in example.messages)

    def _look_at(self, split: str, run: RunContext) -> None:
        """Count the rows of a split, and find out which cannot be used."""
        bad: dict[int, DataError] = {}
        number = -1
        with track(f"reading {split}", unit="rows") as task:
            for number, (place, row) in enumerate(self._records(split)):
                task.advance(1)
                try:
                    if isinstance(row, DataError):
                        raise row
                    self._convert(row, place)
                except DataError as error:
                    text = error.message
                    found = DataError(
                        text if text.startswith(place) else f"{place}: {text}",
                        remedy=error.remedy or 'correct it, or leave it out: on_bad_row = "skip"',
                    )
                    if self._options.on_bad_row == "error":
                        raise found from None
                    bad[number] = found
        self._counts[split] = number + 1 - len(bad)
        self._bad[split] = frozenset(bad)
        if bad:
            first = "; ".join(str(item.message) for item in list(bad.values())[:_BAD_ROWS_NAMED])
            more = f"; and {len(bad) - _BAD_ROWS_NAMED} more" if len(bad) > _BAD_ROWS_NAMED else ""
            run.notice(f"{len(bad):,} of {number + 1:,} rows left out: {first}{more}")
        if not self._counts[split]:
            names = ", ".join(str(path) for path in self._files[split])
            raise DataError(f"{names}: there are no rows", remedy="give a file that has some")

    def _convert(self, row: Any, place: str) -> Conversation:
        if self._format == "auto":
            self._format = find_format(row, self._options.columns)
        return conversation(row, source=place, layout=self._format, columns=self._options.columns)

    def _records(self, split: str) -> Iterator[tuple[str, Any]]:
        for path in self._files[split]:
            yield from read_records(path)

    def _rows(self, split: str) -> Iterator[Conversation]:
        for number, (place, row) in enumerate(self._records(split)):
            if number not in self._bad[split]:
                if isinstance(row, DataError):  # the file has changed since
                    raise row
                yield self._convert(row, place)

    def _choose_validation(self) -> NDArray[np.bool_] | None:
        """Return which training rows validate; None when there are files for that."""
        if "validation" in self._files:
            return None
        count = self._counts["train"]
        held = max(1, round(count * self._options.validation_fraction))
        if held >= count:
            names = ", ".join(str(path) for path in self._files["train"])
            raise DataError(
                f"{names}: {count} rows are too few to hold {held} of them out for validation",
                remedy="give validation files, or another validation_fraction",
            )
        key = np.array([self._options.shuffle_seed & ((1 << 64) - 1), count], np.uint64)
        order = np.argsort(np.random.Philox(key=key).random_raw(count), kind="stable")
        chosen = np.zeros(count, np.bool_)
        chosen[order[:held]] = True
        return chosen

    def _fingerprint(self) -> str:
        hashes = {
            split: [sha256_of(path) for path in paths] for split, paths in self._files.items()
        }
        options = self._options
        rules = [self._format, sorted(options.columns.items()), options.on_bad_row]
        if self._held_out is not None:
            rules += [options.validation_fraction, options.shuffle_seed]
        return hashlib.sha256(json.dumps(["instruct", hashes, rules]).encode()).hexdigest()


def build(options: Any, run: RunContext) -> InstructData:
    """Find the files of all splits, fetch what is behind URLs, and look at every row.

    Raises:
        DataError: a pattern matches nothing, or a file or row cannot be used.
    """
    if options.sample:
        options = options.model_copy(update={"path": str(SAMPLE)})
    found = find_files(options, "data.instruct", SUFFIXES, run)
    files = {split: fetched(paths, run) for split, paths in found.items()}
    return InstructData(files, options, run)
