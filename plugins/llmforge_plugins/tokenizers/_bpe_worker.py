"""Script: train a byte-level BPE; run by :mod:`llmforge_plugins.tokenizers._bpe`.

Argument: the options as JSON. Standard input: texts, each as four bytes of length and UTF-8, then
the length 0. Prints the tokenizer as JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import IO

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers


def main() -> str:
    """Train on standard input and return the tokenizer."""
    options = json.loads(sys.argv[1])
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=options["vocab_size"],
        min_frequency=options["min_frequency"],
        special_tokens=[options["end_of_text"]],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    inner.train_from_iterator(texts(sys.stdin.buffer), trainer)
    return inner.to_str()


def texts(stream: IO[bytes]) -> Iterator[str]:
    """Yield the texts of a stream.

    Raises:
        EOFError: it ended early, because the parent did.
    """
    while True:
        header = stream.read(4)
        size = int.from_bytes(header, "big")
        content = stream.read(size)
        if len(header) < 4 or len(content) < size:
            raise EOFError
        if size == 0:
            return
        yield content.decode("utf-8")


if __name__ == "__main__":
    sys.stdout.buffer.write(main().encode("utf-8"))
