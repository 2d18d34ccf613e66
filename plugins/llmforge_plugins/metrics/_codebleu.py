"""CodeBLEU of a corpus that waits on the disk.

The package wants all texts at once and gives no counts that could be added up batch by batch, so
its four scores are computed at the end, over sequences that read a text when it is asked for.
"""

from __future__ import annotations

import json
import tempfile
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import codebleu
from codebleu import bleu, dataflow_match, syntax_match, weighted_ngram_match
from codebleu.utils import get_tree_sitter_language

_KEYWORDS = Path(codebleu.__file__).parent / "keywords"
_RARE = 0.2
"""Weight of a token that is no keyword."""


class CorpusCodeBleu:
    """Keeps predictions and references in a temporary file.

    Args:
        options: of the component.
    """

    def __init__(self, options: Any) -> None:
        self._language = options.language
        words = (_KEYWORDS / f"{self._language}.txt").read_text(encoding="utf-8").splitlines()
        self._keywords = {word.strip() for word in words}
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  # as long as the metric
        self._places = array("q")

    def update(self, predictions: Sequence[str], references: Sequence[str]) -> None:
        """Write a batch."""
        for prediction, reference in zip(predictions, references, strict=True):
            self._places.append(self._file.seek(0, 2))
            pair = json.dumps([prediction.strip(), reference.strip()])
            self._file.write(pair.encode() + b"\n")

    def compute(self) -> Mapping[str, float]:
        """Return the score of the corpus."""
        code, references = self._column(lambda pair: pair[0]), self._column(lambda pair: [pair[1]])
        words = self._column(lambda pair: pair[0].split())
        of_references = self._column(lambda pair: [pair[1].split()])
        weighted = self._column(lambda pair: [self._weighted(pair[1].split())])
        grammar = get_tree_sitter_language(self._language)
        trees = {"lang": self._language, "tree_sitter_language": grammar}
        parts = (
            bleu.corpus_bleu(of_references, words),
            weighted_ngram_match.corpus_bleu(weighted, words),
            syntax_match.corpus_syntax_match(references, code, **trees),
            # Without any data flow in the references this part counts as met.
            dataflow_match.corpus_dataflow_match(references, code, **trees) or 1,
        )
        return {"codebleu": sum(parts) / len(parts)}

    def _weighted(self, words: Sequence[str]) -> list[Any]:
        return [words, {word: 1 if word in self._keywords else _RARE for word in words}]

    def _column(self, pick: Callable[[list[str]], Any]) -> _Column:
        return _Column(self._pair, len(self._places), pick)

    def _pair(self, index: int) -> list[str]:
        self._file.seek(self._places[index])
        pair: list[str] = json.loads(self._file.readline())
        return pair


class _Column(Sequence[Any]):
    """What is picked of each pair, read when it is asked for."""

    def __init__(
        self, read: Callable[[int], list[str]], length: int, pick: Callable[[list[str]], Any]
    ) -> None:
        self._read = read
        self._length = length
        self._pick = pick

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Any:
        return self._pick(self._read(index))

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(self._length))
