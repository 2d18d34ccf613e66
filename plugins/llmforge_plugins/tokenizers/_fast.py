"""A tokenizer of the Hugging Face ``tokenizers`` library behind llmforge's interface."""

from __future__ import annotations

import functools
import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

from llmforge.errors import DataError
from llmforge_plugins.tokenizers._saved import check_record, read_json, write_record

if TYPE_CHECKING:
    from llmforge_plugins.tokenizers._byte_pairs import BytePairEncoder

_TYPE = "tokenizers"
_LITTLE_TEXT = 1 << 22
"""Characters that are encoded before it pays to prepare for many."""


class FastTokenizer:
    """Wraps ``tokenizers.Tokenizer``.

    Saved as ``tokenizer.json`` and ``tokenizer_config.json``, the files that ``transformers``
    reads too.

    Args:
        inner: the tokenizer; its truncation and padding are turned off.
        end_of_text: the token put after each document, or None.
        config: further content of ``tokenizer_config.json``.

    Raises:
        DataError: the vocabulary does not have ``end_of_text``.
    """

    def __init__(
        self,
        inner: tokenizers.Tokenizer,
        *,
        end_of_text: str | None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        inner.no_truncation()
        inner.no_padding()
        # The name of a special token in a text is text.
        inner.encode_special_tokens = True
        self._inner = inner
        self._lock = threading.Lock()
        self._encoded = 0
        self._content = inner.to_str(pretty=True)
        self._config = {**(config or _CONFIG), "eos_token": end_of_text}
        self.vocab_size: int = max(inner.get_vocab(with_added_tokens=True).values()) + 1
        self.eos_id: int | None = _token_id(inner, end_of_text)
        self.eos_token = end_of_text
        self.bos_token = text_of(self._config.get("bos_token"))
        self.chat_template: str | None = self._config.get("chat_template")
        self.mask_token = text_of(self._config.get("mask_token"))
        self.special_tokens = {
            token.content: number
            for number, token in inner.get_added_tokens_decoder().items()
            if token.special
        }
        parts = json.dumps([self._content, end_of_text])
        self.fingerprint: str = hashlib.sha256(parts.encode()).hexdigest()

    @classmethod
    def load(cls, directory: Path) -> FastTokenizer:
        """Return the tokenizer that :meth:`save` wrote.

        Raises:
            DataError: a file is missing, unreadable or not what was saved.
        """
        check_record(directory, type_name=_TYPE)
        config = read_json(directory / "tokenizer_config.json")
        inner = read_tokenizer(directory / "tokenizer.json")
        loaded = cls(inner, end_of_text=config.get("eos_token"), config=config)
        check_record(directory, type_name=_TYPE, fingerprint=loaded.fingerprint)
        return loaded

    def encode(self, text: str) -> list[int]:
        """Return the ids of ``text`` without any special token."""
        return self._inner.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, encoded on all cores and without the text's offsets."""
        encoded = self._inner.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encoded]

    def encode_arrays(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """Return the ids of each text as an array; once there was much text, with tiktoken.

        Several threads may call it at once; the ids are those of :meth:`encode_batch`.
        """
        with self._lock:
            self._encoded += sum(map(len, texts))
            much = self._encoded > _LITTLE_TEXT
            encoder = self._byte_pairs if much else None
        found = [encoder.encode(text) if encoder else None for text in texts]
        rest = [text for text, ids in zip(texts, found, strict=True) if ids is None]
        others = iter(self.encode_batch(rest) if rest else ())
        return [np.asarray(next(others), np.uint32) if ids is None else ids for ids in found]

    @functools.cached_property
    def _byte_pairs(self) -> BytePairEncoder | None:
        from llmforge_plugins.tokenizers._byte_pairs import byte_pair_encoder

        return byte_pair_encoder(self._inner)

    def encode_spans(
        self, text: str, *, special: bool
    ) -> tuple[Sequence[int], Sequence[tuple[int, int]]]:
        """Return the ids of ``text`` and the characters of each."""
        inner = self._with_special_tokens if special else self._inner
        encoding = inner.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def encode_whole(self, text: str, pair: str | None = None) -> Sequence[int]:
        """Return the ids of a text, or of two, with what the tokenizer's own rules put around."""
        ids: Sequence[int] = self._inner.encode(text, pair, add_special_tokens=True).ids
        return ids

    @functools.cached_property
    def _with_special_tokens(self) -> tokenizers.Tokenizer:
        """Make special tokens of their names in a text: for a template's own text."""
        inner = tokenizers.Tokenizer.from_str(self._content)
        inner.encode_special_tokens = False
        return inner

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ``ids`` without special tokens."""
        return self._inner.decode(list(ids), skip_special_tokens=True)

    def save(self, directory: Path) -> None:
        """Write the tokenizer, its configuration and the record of both."""
        config = json.dumps(self._config, indent=2, ensure_ascii=False) + "\n"
        (directory / "tokenizer.json").write_text(self._content, encoding="utf-8")
        (directory / "tokenizer_config.json").write_text(config, encoding="utf-8")
        write_record(directory, type_name=_TYPE, fingerprint=self.fingerprint)

    def save_hugging_face(self, directory: Path) -> None:
        """Write the files that ``AutoTokenizer`` reads."""
        save_for_transformers(directory, self._content, self._config)


_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "clean_up_tokenization_spaces": False,
}


def save_for_transformers(directory: Path, content: str, config: Mapping[str, Any]) -> None:
    """Write a tokenizer as ``AutoTokenizer`` reads it.

    Args:
        directory: exists.
        content: of ``tokenizer.json``.
        config: what is known for ``tokenizer_config.json``.
    """
    known = {
        key: value for key, value in config.items() if value is not None and key not in _OF_SOURCE
    }
    template = known.pop("chat_template", None)
    known.setdefault("model_input_names", _input_names(str(known.get("tokenizer_class", ""))))
    # classes of single models have rules of their own; the run was trained on those of this file
    known["tokenizer_class"] = _CONFIG["tokenizer_class"]
    if "eos_token" in known:
        known.setdefault("pad_token", known["eos_token"])
    named = {key: text_of(value) for key, value in known.items() if key.endswith("_token")}
    special = {key: value for key, value in named.items() if value is not None}
    (directory / "tokenizer.json").write_text(content, encoding="utf-8")
    write_json(directory / "tokenizer_config.json", {**known, **special})
    write_json(directory / "special_tokens_map.json", special)
    if isinstance(template, str):
        (directory / "chat_template.jinja").write_text(template, encoding="utf-8")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object, its keys in order."""
    text = json.dumps(content, indent=2, ensure_ascii=False, sort_keys=True)
    path.write_text(text + "\n", encoding="utf-8")


def _input_names(tokenizer_class: str) -> list[str]:
    """Return what models read that come with tokenizers of a class; BERT also which text it is."""
    pairs = ["token_type_ids"] if tokenizer_class in ("BertTokenizer", "BertTokenizerFast") else []
    return ["input_ids", *pairs, "attention_mask"]


_OF_SOURCE = ("auto_map", "name_or_path", "tokenizer_file")
"""What a ``tokenizer_config.json`` says of the code and the place it came with."""


def text_of(token: Any) -> str | None:
    """Return a special token, written as text or as a table with ``content``."""
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else None


def read_tokenizer(path: Path) -> tokenizers.Tokenizer:
    """Return the tokenizer in a ``tokenizer.json``.

    Raises:
        DataError: the file is missing or holds no tokenizer.
    """
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises Exception itself
        raise DataError(f"{path} cannot be read as a tokenizer: {error}") from error


def _token_id(inner: tokenizers.Tokenizer, token: str | None) -> int | None:
    if token is None:
        return None
    found = inner.token_to_id(token)
    if found is None:
        raise DataError(
            f"the tokenizer has no token {token!r} to end texts with",
            remedy="set end_of_text to one of its tokens",
        )
    return int(found)
