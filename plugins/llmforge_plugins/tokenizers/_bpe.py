"""Training a byte-level BPE, and its place in the cache."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tokenizers

from llmforge import RunContext, track
from llmforge.errors import DataError
from llmforge.interfaces import Data
from llmforge_plugins._child import child
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
    script = Path(__file__).with_name("_bpe_worker.py")
    size = getattr(data, "characters", {}).get("train")
    with (
        track("training the tokenizer", total=size, unit="characters") as task,
        child(script, options.model_dump_json()) as worker,
    ):
        try:
            for text in _pieces(data):
                content = text.encode("utf-8")
                worker.input.write(len(content).to_bytes(4, "big") + content)
                task.advance(len(text))
            worker.input.write(bytes(4))
        except BrokenPipeError:  # it died; its exit status says more
            pass
        code, output = worker.result()
    if code != 0:
        raise DataError(
            f"training the tokenizer failed: its process ended with status {code}",
            remedy="see the message above; -9 usually means that memory ran out",
        )
    inner = tokenizers.Tokenizer.from_str(output.decode("utf-8"))
    return FastTokenizer(inner, end_of_text=options.end_of_text)


def _pieces(data: Data) -> Iterator[str]:
    """Yield the training text in pieces that keep all cores busy, even if it is one document.

    They depend on the documents alone, not on the parts these come in: training counts the words
    of each piece, and a cut makes two words of one.
    """
    rest = ""
    for text, ends in _parts(data):
        text = rest + text if rest else text
        whole = len(text) if ends else len(text) - len(text) % _PIECE_CHARACTERS
        for start in range(0, whole, _PIECE_CHARACTERS):
            yield text[start : start + _PIECE_CHARACTERS]
        rest = text[whole:]


def _parts(data: Any) -> Iterator[tuple[str, bool]]:
    if hasattr(data, "iter_parts"):
        yield from data.iter_parts("train")
    else:
        yield from ((text, True) for text in data.iter_text("train"))


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
