"""Text files as documents in splits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from llmforge import RunContext, track
from llmforge_plugins.data._compressed import with_suffixes
from llmforge_plugins.data._documents import KINDS, divide, documents
from llmforge_plugins.data._patterns import SPLITS, fetched, find_files
from llmforge_plugins.data._text_files import read_lines, scan_text

SUFFIXES = with_suffixes((".txt",))
_FILES_NAMED = 3


class TextData:
    """Files as splits of documents.

    Args:
        files: the files of each split in order.
        options: ``document``, ``encoding`` and ``validation_fraction``.

    Attributes:
        files: the files it was made from, kept with every checkpoint.
        characters: about how long the text of each split is.
    """

    def __init__(self, files: dict[str, list[Path]], options: Any) -> None:
        self._files = files
        self._document = options.document
        self._encoding = options.encoding
        size = sum(path.stat().st_size for paths in files.values() for path in paths)
        with track("reading text", total=size) as task:
            scans = {
                split: [scan_text(path, options.encoding, moved=task.advance) for path in paths]
                for split, paths in files.items()
            }
        self.characters = {split: sum(n for _, n in found) for split, found in scans.items()}
        hashes = {split: [sha for sha, _ in found] for split, found in scans.items()}
        rules = [self._document, self._encoding]
        self._boundary: int | None = None
        if "validation" not in files:
            characters = sum(count for _, count in scans["train"])
            if self._document not in KINDS:  # delimiters are no part of what is divided
                characters = sum(map(len, self._documents("train")))
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
        if self._boundary is None or split == "test":
            return self._documents(split)
        parts = divide(self._documents("train"), self._boundary)
        return (text for part, text in parts if part == split)

    def _documents(self, split: str) -> Iterator[str]:
        for path in self._files[split]:
            yield from documents(read_lines(path, self._encoding), self._document)


def build(options: Any, run: RunContext) -> TextData:
    """Find the files of all splits, fetch what is behind URLs, and open them.

    Raises:
        DataError: a pattern matches nothing, or a file cannot be read.
    """
    found = find_files(options, "data.text", SUFFIXES, run)
    return TextData({split: fetched(paths, run) for split, paths in found.items()}, options)
