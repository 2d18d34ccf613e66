"""Text files as documents in splits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from llmforge import RunContext, track
from llmforge.interfaces import Progress
from llmforge_plugins.data._compressed import with_suffixes
from llmforge_plugins.data._documents import (
    KINDS,
    NEEDS_LINES,
    Part,
    cut_before,
    document_parts,
    joined,
    parts_before,
    parts_behind,
)
from llmforge_plugins.data._files import remembered
from llmforge_plugins.data._patterns import SPLITS, fetched, find_files
from llmforge_plugins.data._text_files import read_blocks, read_lines, scan_text

SUFFIXES = with_suffixes((".txt",))
_FILES_NAMED = 3


class TextData:
    """Files as splits of documents.

    Args:
        files: the files of each split in order.
        options: ``document``, ``encoding`` and ``validation_fraction``.
        cache: its root, where is kept what was found in files, so that a start need not read them
            while they look the same; None: they are read.

    Attributes:
        files: the files it was made from, kept with every checkpoint.
        characters: about how long the text of each split is.
    """

    def __init__(
        self, files: dict[str, list[Path]], options: Any, *, cache: Path | None = None
    ) -> None:
        self._files = files
        self._document = options.document
        self._encoding = options.encoding
        self._cache = cache
        size = sum(path.stat().st_size for paths in files.values() for path in paths)
        with track("reading text", total=size) as task:
            scans = {
                split: [self._scan(path, moved=task.advance) for path in paths]
                for split, paths in files.items()
            }
        self.characters = {split: sum(n for _, n in found) for split, found in scans.items()}
        hashes = {split: [sha for sha, _ in found] for split, found in scans.items()}
        rules = [self._document, self._encoding]
        self._boundary: int | None = None
        if "validation" not in files:
            characters = sum(count for _, count in scans["train"])
            if self._document not in KINDS:  # delimiters are no part of what is divided
                characters = sum(map(self._characters, files["train"]))
            self._boundary = int(characters * (1.0 - options.validation_fraction))
            self.characters |= {
                "train": self._boundary,
                "validation": characters - self._boundary,
            }
            rules.append(options.validation_fraction)
        self.splits: Sequence[str] = tuple(
            split for split in SPLITS if split in files or split == "validation"
        )
        content = json.dumps(["text", hashes, rules])
        self.fingerprint = hashlib.sha256(content.encode()).hexdigest()
        names = [path.name for paths in files.values() for path in paths]
        listed = f" ({', '.join(names)})" if len(names) <= _FILES_NAMED else ""
        self.description = f"text, {len(names)} file{'s' if len(names) != 1 else ''}{listed}"
        self.files = tuple(str(path) for paths in files.values() for path in paths)

    def iter_text(self, split: str) -> Iterator[str]:
        """Yield the documents of ``split``.

        Raises:
            DataError: a file is not readable any more.
        """
        return joined(self.iter_parts(split))

    def iter_parts(self, split: str) -> Iterator[Part]:
        """Yield the documents of ``split`` in parts, each with whether a document ends with it.

        Raises:
            DataError: a file is not readable any more.
        """
        if self._boundary is None or split == "test":
            return self._parts(split)
        select = parts_before if split == "train" else parts_behind
        return select(self._parts("train"), self._cut)

    @cached_property
    def _cut(self) -> int:
        """How many characters of the training files train; the rest validates."""
        assert self._boundary is not None
        return cut_before(self._parts("train"), self._boundary)

    def _parts(self, split: str) -> Iterator[Part]:
        for path in self._files[split]:
            yield from self._parts_of(path)

    def _parts_of(self, path: Path) -> Iterator[Part]:
        read = read_lines if self._document in NEEDS_LINES else read_blocks
        return document_parts(read(path, self._encoding), self._document)

    def _scan(self, path: Path, *, moved: Progress) -> tuple[str, int]:
        scan = partial(scan_text, path, self._encoding)
        sha256, characters = self._remembered(path, f"text {self._encoding}", scan, moved)
        return sha256, characters

    def _characters(self, path: Path) -> int:
        """Return how long the documents of a file are, without the delimiters between them."""

        def count(*, moved: Progress) -> int:
            del moved
            return sum(len(text) for text, _ in self._parts_of(path))

        what = f"documents {self._encoding} {self._document}"
        return int(self._remembered(path, what, count, lambda _: None))

    def _remembered(
        self, path: Path, what: str, found_by: Callable[..., Any], moved: Progress
    ) -> Any:
        if self._cache is None:
            return found_by(moved=moved)
        return remembered(path, what, found_by, cache=self._cache, moved=moved)


def build(options: Any, run: RunContext) -> TextData:
    """Find the files of all splits, fetch what is behind URLs, and open them.

    Raises:
        DataError: a pattern matches nothing, or a file cannot be read.
    """
    found = find_files(options, "data.text", SUFFIXES, run)
    files = {split: fetched(paths, run) for split, paths in found.items()}
    return TextData(files, options, cache=run.cache)
