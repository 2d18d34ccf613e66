"""Training a byte-level BPE, and its place in the cache."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from llmforge import RunContext
from llmforge.errors import DataError
from llmforge.interfaces import Data
from llmforge_plugins._interruptible import interruptible
from llmforge_plugins.tokenizers._fast import FastTokenizer

_TRAINING_VERSION = 1
_PIECE_CHARACTERS = 1 << 16


def build(options: Any, run: RunContext, data: Data) -> FastTokenizer:
    """Return the tokenizer for ``data``: from the cache, or trained and put there.

    Raises:
        DataError: the training split has no text, or the cache cannot be written.
    """
    key = [_TRAINING_VERSION, data.fingerprint, options.model_dump(mode="json")]
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
    directory = run.cache / "tokenizers" / name
    tokenizer = _cached(directory, run)
    if tokenizer is None:
        tokenizer = _train(options, data)
        _store(tokenizer, directory)
    if tokenizer.vocab_size < options.vocab_size:
        run.notice(
            f"the text has pairs for {tokenizer.vocab_size} tokens only, "
            f"not for tokenizer.bpe.vocab_size = {options.vocab_size}"
        )
    return tokenizer


def _cached(directory: Path, run: RunContext) -> FastTokenizer | None:
    if not directory.exists():
        return None
    try:
        return FastTokenizer.load(directory)
    except DataError as error:
        run.notice(f"cached tokenizer is damaged ({error.message}): training it again")
        shutil.rmtree(directory, ignore_errors=True)
        return None


def _train(options: Any, data: Data) -> FastTokenizer:
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=options.vocab_size,
        min_frequency=options.min_frequency,
        special_tokens=[options.end_of_text],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    abandoned = Event()

    def pieces() -> Iterator[str]:
        for text in data.iter_text("train"):
            # Pieces keep all cores busy on one long document; a word in two costs nothing.
            for start in range(0, len(text), _PIECE_CHARACTERS):
                if abandoned.is_set():
                    raise InterruptedError("training was abandoned")
                yield text[start : start + _PIECE_CHARACTERS]

    try:
        interruptible(lambda: inner.train_from_iterator(pieces(), trainer))
    finally:
        abandoned.set()
    return FastTokenizer(inner, end_of_text=options.end_of_text)


def _store(tokenizer: FastTokenizer, directory: Path) -> None:
    """Put the tokenizer into the cache by one rename; another process may have been faster."""
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".new-", dir=directory.parent))
        try:
            tokenizer.save(work)
            work.rename(directory)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        if directory.exists():
            return
        raise DataError(
            f"the tokenizer cache {directory.parent} cannot be written: {error}",
            remedy="free space there, or set FORGE_CACHE to another directory",
        ) from error
