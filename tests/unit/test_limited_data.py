"""``data.max_documents`` cuts the training split of any data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from llmforge.run.setup.limited_data import LimitedData, LimitedParts


class Letters:
    splits = ("train", "validation")
    fingerprint = "letters"
    description = "letters"
    resolution: ClassVar = {"source": "path"}
    labels = ("vowel", "consonant")

    def iter_text(self, split: str) -> Iterator[str]:
        yield from ("a", "b", "c") if split == "train" else ("x", "y", "z")


def test_only_the_first_training_documents_are_given() -> None:
    limited = LimitedData(Letters(), max_documents=2)
    assert list(limited.iter_text("train")) == ["a", "b"]
    assert list(limited.iter_text("validation")) == ["x", "y", "z"]


def test_another_limit_is_other_data() -> None:
    fingerprints = {LimitedData(Letters(), max_documents=n).fingerprint for n in (1, 2)}
    assert len(fingerprints | {Letters.fingerprint}) == 3


def test_what_the_data_decided_is_kept() -> None:
    limited = LimitedData(Letters(), max_documents=1)
    assert limited.resolution == {"source": "path"}
    assert limited.labels == ("vowel", "consonant")  # all of them, whichever the first rows have


def test_documents_in_parts_are_limited_alike():
    class Parts(Letters):
        def iter_parts(self, split):
            del split
            return iter([("a", False), ("", True), ("b", True), ("c", True)])

    limited = LimitedParts(Parts(), max_documents=2)
    assert list(limited.iter_parts("train")) == [("a", False), ("", True), ("b", True)]
    assert len(list(limited.iter_parts("validation"))) == 4
