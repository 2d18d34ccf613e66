"""Files of rows as examples in splits."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from llmforge import RunContext, track
from llmforge.errors import DataError
from llmforge.interfaces import Example, ExampleLayout
from llmforge_plugins.data._files import sha256_of
from llmforge_plugins.data._hub_datasets import HubDatasets
from llmforge_plugins.data._patterns import SPLITS, asked, fetched, named_files
from llmforge_plugins.data._records import SUFFIXES, read_records

_FILES_NAMED = 3
_BAD_ROWS_NAMED = 3
_BAD_ROWS_LISTED = 10
_REMEDY = 'correct it, or leave it out: on_bad_row = "skip"'


@dataclass(frozen=True, kw_only=True)
class Sources:
    """The files that examples come from.

    Attributes:
        files: of each split, in order.
        weights: how often an epoch has each row of a training file; once where absent.
        commits: of the datasets of the hub they are in.
    """

    files: Mapping[str, Sequence[Path]]
    weights: Mapping[Path, float] = field(default_factory=dict)
    commits: Mapping[str, str] = field(default_factory=dict)


class ExampleFiles(ABC):
    """Examples of files, in their order.

    Every row is looked at once here, so that a bad one is reported before anything is trained.

    Args:
        sources: the files.
        options: of the component.
        run: told which rows are left out.

    Raises:
        DataError: a file or row cannot be used.
    """

    component: ClassVar[str]

    def __init__(self, sources: Sources, options: Any, run: RunContext) -> None:
        self._files = files = sources.files
        self._weights = sources.weights
        self._options = options
        self._counts: dict[str, int] = {}
        self._bad: dict[str, frozenset[int]] = {}
        self.look_at_all(run)
        self._held_out = self._choose_validation()
        self.splits: Sequence[str] = tuple(
            split for split in SPLITS if split in files or split == "validation"
        )
        self.layout = self.make_layout()
        self.fingerprint = self._fingerprint()
        names = [path.name for paths in files.values() for path in paths]
        listed = f" ({', '.join(names)})" if len(names) <= _FILES_NAMED else ""
        total = sum(self._counts.values())
        self.description = (
            f"{total:,} examples ({self.form}) in {len(names)} "
            f"file{'s' if len(names) != 1 else ''}{listed}"
        )
        self.files = tuple(str(path) for paths in files.values() for path in paths)
        self.resolution = {"datasets": dict(sources.commits)} if sources.commits else {}

    def look_at_all(self, run: RunContext) -> None:
        """Look at the rows of every split."""
        for split in self._files:
            self._look_at(split, run)

    @property
    @abstractmethod
    def form(self) -> str:
        """What the rows are, in a word or two."""

    @abstractmethod
    def make_layout(self) -> ExampleLayout:
        """Return how examples become rows of tokens."""

    @abstractmethod
    def convert(self, row: Any, place: str, split: str) -> Example:
        """Return a row as an example.

        Raises:
            DataError: it cannot be used.
        """

    @abstractmethod
    def text(self, example: Any) -> str:
        """Return what a tokenizer is trained on of an example."""

    @abstractmethod
    def rules(self) -> list[Any]:
        """Return, as JSON, which options decide what the examples are."""

    def examples(self, split: str) -> Iterator[Example]:
        """Yield the examples of ``split``; those of training as often as weights say."""
        held_out = self._held_out if split != "test" else None
        if held_out is None and split != "train":
            yield from (example for _, example in self._rows(split))
            return
        chances = self._random(self._counts["train"], stream=1) / 2.0**64
        for place, (path, example) in enumerate(self._rows("train")):
            if held_out is not None and held_out[place]:
                if split == "validation":
                    yield example
            elif split == "train":
                whole, part = divmod(self._weights.get(path, 1.0), 1.0)
                yield from repeat(example, int(whole) + int(chances[place] < part))

    def iter_text(self, split: str) -> Iterator[str]:
        """Yield what is said, for a tokenizer that is trained on it."""
        yield from map(self.text, self.examples(split))

    def _look_at(self, split: str, run: RunContext) -> None:
        """Count the rows of a split, and find out which cannot be used."""
        bad: dict[int, DataError] = {}
        number = -1
        with track(f"reading {split}", unit="rows") as task:
            for number, (_, place, row) in enumerate(self._records(split)):
                task.advance(1)
                try:
                    if isinstance(row, DataError):
                        raise row
                    self.convert(row, place, split)
                except DataError as error:
                    text = error.message
                    found = DataError(
                        text if text.startswith(place) else f"{place}: {text}",
                        remedy=error.remedy or _REMEDY,
                    )
                    bad[number] = found
        if bad and self._options.on_bad_row == "error":
            raise _unusable(list(bad.values()), rows=number + 1)
        self._counts[split] = number + 1 - len(bad)
        self._bad[split] = frozenset(bad)
        if bad:
            first = "; ".join(str(item.message) for item in list(bad.values())[:_BAD_ROWS_NAMED])
            more = f"; and {len(bad) - _BAD_ROWS_NAMED} more" if len(bad) > _BAD_ROWS_NAMED else ""
            run.notice(f"{len(bad):,} of {number + 1:,} rows left out: {first}{more}")
        if not self._counts[split]:
            names = ", ".join(str(path) for path in self._files[split])
            raise DataError(f"{names}: there are no rows", remedy="give a file that has some")

    def _records(self, split: str) -> Iterator[tuple[Path, str, Any]]:
        for path in self._files[split]:
            for place, row in read_records(path):
                yield path, place, row

    def _rows(self, split: str) -> Iterator[tuple[Path, Example]]:
        for number, (path, place, row) in enumerate(self._records(split)):
            if number not in self._bad[split]:
                if isinstance(row, DataError):  # the file has changed since
                    raise row
                yield path, self.convert(row, place, split)

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
        order = np.argsort(self._random(count, stream=0), kind="stable")
        chosen = np.zeros(count, np.bool_)
        chosen[order[:held]] = True
        return chosen

    def _random(self, count: int, *, stream: int) -> NDArray[np.uint64]:
        """Return a number for each of ``count`` rows, which follows from ``shuffle_seed``."""
        key = np.array([self._options.shuffle_seed & ((1 << 64) - 1), count], np.uint64)
        bits = np.random.Philox(key=key, counter=[0, 0, 0, stream])
        return np.asarray(bits.random_raw(count), np.uint64)

    def _fingerprint(self) -> str:
        hashes = {
            split: [sha256_of(path) for path in paths] for split, paths in self._files.items()
        }
        options = self._options
        rules = [*self.rules(), sorted(options.columns.items()), options.on_bad_row]
        if self._held_out is not None:
            rules += [options.validation_fraction, options.shuffle_seed]
        if self._weights:
            weights = [self._weights.get(path, 1.0) for path in self._files["train"]]
            rules += [weights, options.shuffle_seed]
        kind = self.component
        return hashlib.sha256(json.dumps([kind, hashes, rules]).encode()).hexdigest()


class BadRows(DataError):
    """Several rows that cannot be used."""

    @property
    def reason(self) -> str:
        """The rows in one line."""
        return "; ".join(self.message.split("\n  "))


def _unusable(bad: Sequence[DataError], *, rows: int) -> DataError:
    """Return the error that lists bad rows, the first of them where there are many."""
    if len(bad) == 1:
        return bad[0]
    lines = [error.message for error in bad[:_BAD_ROWS_LISTED]]
    if more := len(bad) - len(lines):
        lines.append(f"and {more:,} more")
    remedies = {error.remedy for error in bad}
    own = remedies.pop() if len(remedies) == 1 else _REMEDY
    remedy = 'correct them, or leave them out: on_bad_row = "skip"' if own == _REMEDY else own
    text = "\n  ".join([f"{len(bad):,} of {rows:,} rows cannot be used", *lines])
    return BadRows(text, remedy=remedy)


def example_files(options: Any, component: str, run: RunContext) -> Sources:
    """Find the files of all splits, and fetch what is behind URLs.

    Raises:
        DataError: a pattern matches nothing, or a file cannot be fetched.
    """
    datasets = HubDatasets(run)
    patterns: dict[str, dict[str, float]] = {}
    for split, key, asked_for in asked(options):
        given = getattr(options, key)
        weights = given.values() if isinstance(given, dict) else repeat(1.0)
        patterns[key] = {
            url: weight
            for pattern, weight in zip(asked_for, weights, strict=False)
            for url in datasets.files(pattern, split, SUFFIXES)
        }
    named = named_files(options.model_copy(update=patterns), f"data.{component}", SUFFIXES, run)
    local = {split: fetched(list(found), run) for split, found in named.items()}
    weight_of = patterns.get("train") or patterns["path"]
    weighed = {
        path: weight_of[pattern]
        for path, pattern in zip(local["train"], named["train"].values(), strict=True)
        if weight_of[pattern] != 1
    }
    return Sources(files=local, weights=weighed, commits=datasets.commits)
