"""Byte-level BPE through tiktoken, where it gives the very ids of the ``tokenizers`` library.

tiktoken looks a piece of text up whole, and else merges whichever two neighbours make the token of
the lowest rank; ``tokenizers`` merges the pair that comes first in its list. The results are equal
if every merge makes a token of its own out of tokens made before, and every token, encoded alone,
is itself. Proof: as long as both have done the same, no token crosses the borders of two neighbours
``u`` and ``v``; so what is between these borders is what it would be if ``uv`` stood alone at this
rank, and alone it becomes the token ``uv`` by its one merge, which is therefore ``(u, v)``.
:func:`byte_pair_encoder` checks these conditions and returns None where one does not hold.

Which characters are letters, numbers and spaces depends on the version of Unicode that a library
was built with, so they are asked of ``tokenizers`` and spelt out for tiktoken.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import Regex, models, normalizers

from llmforge_plugins.tokenizers._byte_level import byte_vocabulary

_PATTERNS = {
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+": (
        "'(?:[sdmt]|ll|ve|re)| ?[{L}]+| ?[{N}]+| ?[^{S}{L}{N}]+|[{S}]+(?![^{S}])|[{S}]+"
    ),
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+": (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n{L}{N}]?[{L}]+|[{N}]| ?[^{S}{L}{N}]+[\r\n]*"
        r"|[{S}]*[\r\n]+|[{S}]+(?![^{S}])|[{S}]+"
    ),
}
"""Expressions that text is split by, as ``tokenizers`` has them (GPT-2, Qwen2), with the same for
tiktoken: L, N and S stand for the letters, numbers and spaces."""

_GPT2 = next(iter(_PATTERNS))
_CLASSES = {"L": r"\P{L}", "N": r"\P{N}", "S": r"\S"}
"""What is not in each class."""

_LONGEST = 1 << 16
"""Characters; the search for spaces goes back over what it has seen, which must end."""


class BytePairEncoder:
    """Encodes text into arrays of ids; several threads may do so at once.

    Args:
        encoding: tiktoken's; its ids are ranks.
        ids: the id of each rank.
        normalizer: what text is passed through first; None when it stays as it is.
        added: tokens that are looked for in the text before it is split.
    """

    def __init__(
        self, encoding: Any, ids: NDArray[np.uint32], normalizer: Any, added: Sequence[str]
    ) -> None:
        self._encoding = encoding
        self._ids = ids
        self._normalizer = normalizer
        self._added = added

    def encode(self, text: str) -> NDArray[np.uint32] | None:
        """Return the ids of ``text``; None when only the library itself can tell them."""
        if len(text) > _LONGEST or any(token in text for token in self._added):
            return None
        if self._normalizer is not None and not text.isascii():
            text = self._normalizer.normalize_str(text)
            if any(token in text for token in self._added):
                return None
        found: NDArray[np.uint32] = self._ids[
            self._encoding.encode_to_numpy(text, disallowed_special=())
        ]
        return found


def byte_pair_encoder(inner: tokenizers.Tokenizer) -> BytePairEncoder | None:
    """Return what encodes as ``inner`` does, None when that cannot be proved.

    Args:
        inner: special tokens in a text are text to it.
    """
    try:
        import tiktoken
    except ImportError:
        return None
    body = json.loads(inner.to_str())
    pattern = _pattern(body["pre_tokenizer"])
    tokens = _tokens(inner, body["model"]) if body["model"]["type"] == "BPE" else None
    if pattern is None or tokens is None or not _known_normalizer(body["normalizer"]):
        return None
    encoding = tiktoken.Encoding(
        "llmforge",
        pat_str=pattern,
        mergeable_ranks={token: rank for rank, token in enumerate(tokens)},
        special_tokens={},
    )
    added = [token["content"] for token in body["added_tokens"] if not token["special"]]
    ids = np.fromiter(tokens.values(), dtype=np.uint32, count=len(tokens))
    return BytePairEncoder(encoding, ids, inner.normalizer, added)


def _known_normalizer(body: Mapping[str, Any] | None) -> bool:
    return body is None or body["type"] == "NFC"  # neither changes ASCII


def _pattern(body: Mapping[str, Any] | None) -> str | None:
    """Return the expression that a pre-tokenizer splits by, for tiktoken; None if it is unknown."""
    if body is None:
        return None
    steps = body["pretokenizers"] if body["type"] == "Sequence" else [body]
    *before, last = steps
    if last["type"] != "ByteLevel" or last["add_prefix_space"]:
        return None
    if not before:
        source = _GPT2 if last.get("use_regex", True) else None
    elif len(before) == 1 and before[0]["type"] == "Split" and not last.get("use_regex", True):
        split = before[0]
        isolated = split["behavior"] == "Isolated" and not split["invert"]
        source = split["pattern"].get("Regex") if isolated else None
    else:
        return None
    known = _PATTERNS.get(source) if source is not None else None
    if known is None:
        return None
    for name, content in _character_classes().items():
        known = known.replace(f"{{{name}}}", content)
    return known


@functools.cache
def _character_classes() -> Mapping[str, str]:
    """Return the ranges of characters that ``tokenizers`` takes for letters, numbers, spaces."""
    every = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)]))
    return {
        name: _ranges(normalizers.Replace(Regex(outside), "").normalize_str(every))
        for name, outside in _CLASSES.items()
    }


def _ranges(characters: str) -> str:
    codes = np.frombuffer(characters.encode("utf-32-le"), dtype="<u4").astype(np.int64)
    breaks = [0, *(np.flatnonzero(np.diff(codes) != 1) + 1).tolist(), len(codes)]
    return "".join(
        rf"\x{{{codes[start]:X}}}-\x{{{codes[stop - 1]:X}}}" for start, stop in pairwise(breaks)
    )


def _tokens(inner: tokenizers.Tokenizer, model: Mapping[str, Any]) -> dict[bytes, int] | None:
    """Return the id of every token by its bytes, in the order of rank; None if that is not enough.

    The conditions are those of the proof above.
    """
    if model["dropout"] or model["byte_fallback"]:
        return None
    if model["continuing_subword_prefix"] or model["end_of_word_suffix"]:
        return None
    vocabulary: Mapping[str, int] = model["vocab"]
    made = {character: bytes([byte]) for character, byte in byte_vocabulary().items()}
    if not vocabulary.keys() >= made.keys():
        return None
    for merge in model["merges"]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        token = left + right
        if left not in made or right not in made or token in made or token not in vocabulary:
            return None
        made[token] = made[left] + made[right]
    plain = inner.model
    if model["ignore_merges"]:
        added = {token.content for token in inner.get_added_tokens_decoder().values()}
        if vocabulary.keys() - made.keys() - added:
            return None
        plain = models.BPE(vocab=dict(vocabulary), merges=[tuple(pair) for pair in model["merges"]])
    for token in made:
        if [found.id for found in plain.tokenize(token)] != [vocabulary[token]]:
            return None
    return {content: vocabulary[token] for token, content in made.items()}
