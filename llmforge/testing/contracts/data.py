"""The contract of the kind ``data``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from llmforge.component import Component
from llmforge.interfaces import Data, RunContext, TokenData
from llmforge.testing.context import make_component
from llmforge.testing.contracts.base import Contract, build

SENTENCES = (
    "The harbour froze in the winter of that year.",
    "Ferries stayed at the quay until the ice broke.",
    "Zwölf Kähne lagen fest.",
)


class AnyDataContract(Contract, ABC):
    """What holds for text and for tokens: splits, and a fingerprint of the contents."""

    @abstractmethod
    def write(self, directory: Path, sentences: tuple[str, ...]) -> Mapping[str, Any]:
        """Write data whose training split contains ``sentences``; return the options to read it.

        Data that cannot be chosen ignores ``sentences``; its class sets the tests about them to
        None.
        """

    def make_options(self, directory: Path) -> Mapping[str, Any]:
        """Return the options that read the written sentences."""
        return self._written(directory / "data", SENTENCES)

    def _written(self, directory: Path, sentences: tuple[str, ...]) -> Mapping[str, Any]:
        directory.mkdir(parents=True)
        return self.write(directory, sentences)

    def _open(self, plugin: Component, run: RunContext, directory: Path, *text: str) -> Any:
        other = make_component(type(plugin), self._written(directory, text))
        return build(other, "forge_build_data", run=run)

    @pytest.fixture
    def data(self, plugin: Component, run: RunContext) -> Any:
        """The data under test."""
        return build(plugin, "forge_build_data", run=run)

    def test_it_has_a_training_split_and_no_unknown_one(self, data: Any) -> None:
        assert "train" in data.splits
        assert len(set(data.splits)) == len(data.splits)
        assert set(data.splits) <= {"train", "validation", "test"}

    def test_its_description_is_one_line(self, data: Any) -> None:
        assert data.description
        assert "\n" not in data.description

    def test_equal_contents_have_an_equal_fingerprint_wherever_they_lie(
        self, plugin: Component, run: RunContext, data: Any, tmp_path: Path
    ) -> None:
        assert self._open(plugin, run, tmp_path / "b", *SENTENCES).fingerprint == data.fingerprint

    def test_other_contents_have_another_fingerprint(
        self, plugin: Component, run: RunContext, data: Any, tmp_path: Path
    ) -> None:
        other = self._open(plugin, run, tmp_path / "b", *SENTENCES[:-1], "Elf Kähne lagen fest.")
        assert other.fingerprint != data.fingerprint


class DataContract(AnyDataContract, ABC):
    """Text by split, in a fixed order, with a fingerprint of the contents."""

    def test_every_split_has_text_and_gives_it_again_in_the_same_order(self, data: Data) -> None:
        for split in data.splits:
            documents = list(data.iter_text(split))
            assert documents
            assert all(isinstance(item, str) and item for item in documents)
            assert list(data.iter_text(split)) == documents

    def test_two_readers_of_one_split_do_not_disturb_each_other(self, data: Data) -> None:
        first, second = data.iter_text("train"), data.iter_text("train")
        assert next(first) == next(second)
        assert list(first) == list(second)

    def test_the_text_arrives_whole(self, data: Data) -> None:
        text = "".join(data.iter_text("train"))
        assert [sentence for sentence in SENTENCES if sentence not in text] == []

    def test_reading_leaves_the_run_directory_alone(self, data: Data, run: RunContext) -> None:
        for split in data.splits:
            list(data.iter_text(split))
        assert list(run.directory.iterdir()) == []


class TokenDataContract(AnyDataContract, ABC):
    """Token ids by split, where they lie; ``write`` writes UTF-8 bytes as ids."""

    def test_it_says_that_it_gives_tokens(self, plugin: Component, data: Any) -> None:
        assert "tokens" in plugin.supports
        assert isinstance(data, TokenData)

    def test_every_shard_has_a_name_a_file_and_whole_numbers_in_one_row(
        self, data: TokenData
    ) -> None:
        for split in data.splits:
            shards = data.shards(split)
            assert shards
            for shard in shards:
                assert shard.name
                assert shard.path.is_file()
                assert (shard.ids.ndim, shard.ids.dtype.kind in "iu") == (1, True)

    def test_the_tokens_arrive_whole(self, data: TokenData) -> None:
        text = b"".join(bytes(shard.ids.tolist()) for shard in data.shards("train")).decode()
        assert [sentence for sentence in SENTENCES if sentence not in text] == []

    def test_its_tokens_cannot_be_written_to(self, data: TokenData) -> None:
        for shard in data.shards("train"):
            with pytest.raises(ValueError, match="read-only"):
                shard.ids[0] = 1

    def test_reading_leaves_the_run_directory_alone(self, data: TokenData, run: RunContext) -> None:
        for split in data.splits:
            [shard.ids.sum() for shard in data.shards(split)]
        assert list(run.directory.iterdir()) == []
