"""The contract of the kind ``tokenizer``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from llmforge.component import Component
from llmforge.interfaces import HuggingFaceTokenizer, RunContext, Tokenizer
from llmforge.testing.context import make_component
from llmforge.testing.contracts.base import Contract, build
from llmforge.testing.stand_ins import TEXTS, TinyData


class TokenizerContract(Contract):
    """Text to ids and back, the same after saving and loading.

    Attributes:
        texts: must come back unchanged; narrow them for a tokenizer that normalises text.
    """

    texts: ClassVar[Sequence[str]] = (
        *TEXTS["train"],
        "",
        " ",
        "  two  spaces and a\ttab\n\n\nthree line breaks",
        "Zwölf Boxkämpfer jagen Viktor quer über den Sylter Deich",
        "日本語 \U0001f680 \u200d ع",
        "<|endoftext|> </s> [UNK] <unk>",
    )

    @pytest.fixture
    def data(self) -> TinyData:
        """What a tokenizer is trained on."""
        return TinyData()

    @pytest.fixture
    def tokenizer(self, plugin: Component, run: RunContext, data: TinyData) -> Tokenizer:
        """The tokenizer under test."""
        built: Tokenizer = build(plugin, "forge_build_tokenizer", run=run, data=data)
        return built

    def test_text_comes_back_unchanged(self, tokenizer: Tokenizer) -> None:
        assert [tokenizer.decode(tokenizer.encode(text)) for text in self.texts] == [*self.texts]

    def test_every_id_is_below_the_vocabulary_size(self, tokenizer: Tokenizer) -> None:
        ids = {token for text in self.texts for token in tokenizer.encode(text)}
        assert all(type(token) is int for token in ids)
        assert min(ids) >= 0
        assert max(ids) < tokenizer.vocab_size

    def test_a_batch_is_encoded_like_each_of_its_texts(self, tokenizer: Tokenizer) -> None:
        batch = tokenizer.encode_batch(self.texts)
        assert [list(ids) for ids in batch] == [tokenizer.encode(text) for text in self.texts]
        assert tokenizer.encode_batch([]) == []

    def test_the_end_of_text_never_comes_out_of_text_and_decodes_to_nothing(
        self, tokenizer: Tokenizer
    ) -> None:
        if tokenizer.eos_id is None:
            return
        assert 0 <= tokenizer.eos_id < tokenizer.vocab_size
        ids = tokenizer.encode(self.texts[0])
        assert tokenizer.eos_id not in {
            token for text in self.texts for token in tokenizer.encode(text)
        }
        assert tokenizer.decode([*ids, tokenizer.eos_id]) == tokenizer.decode(ids)

    def test_equal_data_gives_an_equal_tokenizer(
        self, plugin: Component, run: RunContext, tokenizer: Tokenizer, data: TinyData
    ) -> None:
        again = build(plugin, "forge_build_tokenizer", run=run, data=data)
        assert again.fingerprint == tokenizer.fingerprint
        assert again.encode_batch(self.texts) == tokenizer.encode_batch(self.texts)

    def test_an_equal_fingerprint_means_equal_ids(
        self, plugin: Component, run: RunContext, tokenizer: Tokenizer
    ) -> None:
        other = build(
            plugin,
            "forge_build_tokenizer",
            run=run,
            data=TinyData({"train": ("zzz qqq zzz qqq xxyy xxyy\n" * 20,)}),
        )
        same_ids = other.encode_batch(self.texts) == tokenizer.encode_batch(self.texts)
        assert same_ids or other.fingerprint != tokenizer.fingerprint

    def test_it_is_the_same_after_saving_and_loading(
        self, plugin: Component, run: RunContext, tokenizer: Tokenizer, tmp_path: Path
    ) -> None:
        directory = tmp_path / "saved"
        directory.mkdir()
        tokenizer.save(directory)
        fresh = make_component(type(plugin), plugin.options.model_dump(exclude_unset=True))
        loaded = build(fresh, "forge_load_tokenizer", run=run, directory=directory)
        assert loaded.fingerprint == tokenizer.fingerprint
        assert (loaded.vocab_size, loaded.eos_id) == (tokenizer.vocab_size, tokenizer.eos_id)
        ids = tokenizer.encode_batch(self.texts)
        assert loaded.encode_batch(self.texts) == ids
        assert [loaded.decode(item) for item in ids] == [tokenizer.decode(item) for item in ids]

    def test_transformers_reads_what_it_writes(self, tokenizer: Tokenizer, tmp_path: Path) -> None:
        if not isinstance(tokenizer, HuggingFaceTokenizer):
            return
        transformers = pytest.importorskip("transformers")
        tokenizer.save_hugging_face(tmp_path)
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
        # there, the name of a special token in a text is that token
        texts = [text for text in self.texts if "<" not in text]
        ids = [theirs(text, add_special_tokens=False).input_ids for text in texts]
        assert ids == tokenizer.encode_batch(texts)
        decoded = [theirs.decode(each, skip_special_tokens=True) for each in ids]
        assert decoded == [tokenizer.decode(each) for each in ids]
        assert theirs.eos_token_id == tokenizer.eos_id
