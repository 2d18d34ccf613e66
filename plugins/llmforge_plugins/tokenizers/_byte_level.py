"""The tokenizer ``bytes`` as one of the ``tokenizers`` library."""

from __future__ import annotations

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

_PRINTED = (range(0x21, 0x7F), range(0xA1, 0xAD), range(0xAE, 0x100))
"""Bytes that byte-level tokenizers write as the character of the same number."""


def byte_level(end_of_text: str) -> str:
    """Return a ``tokenizer.json`` whose ids are the bytes of UTF-8, 256 being the end of text."""
    inner = tokenizers.Tokenizer(models.BPE(vocab=byte_vocabulary(), merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([end_of_text])
    return str(inner.to_str(pretty=True))


def byte_vocabulary() -> dict[str, int]:
    """Return the byte behind each character of byte-level tokenizers (Radford et al. 2019).

    Bytes that cannot be printed have the characters from 256 on, in order.
    """
    printed = {byte for part in _PRINTED for byte in part}
    hidden = [byte for byte in range(256) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {
        chr(256 + place): byte for place, byte in enumerate(hidden)
    }
