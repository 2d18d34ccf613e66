"""Files: hashes of their contents, lines exactly as they are, writing all or nothing."""

from __future__ import annotations

import codecs
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmforge.errors import DataError

_BLOCK = 1 << 20


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes.

    Raises:
        DataError: it cannot be read.
    """
    return scan(path)[0]


def scan(path: Path, encoding: str | None = None) -> tuple[str, int]:
    """Return the SHA-256 of a file and, with an ``encoding``, its length in characters.

    Raises:
        DataError: the file cannot be read or is not in that encoding.
    """
    digest, characters = hashlib.sha256(), 0
    decoder = codecs.getincrementaldecoder(encoding)() if encoding else None
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
                if decoder:
                    characters += len(decoder.decode(block))
        if decoder:
            characters += len(decoder.decode(b"", final=True))
    except UnicodeDecodeError as error:
        raise _not_in(path, encoding or "", error) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    return digest.hexdigest(), characters


def read_lines(path: Path, encoding: str = "utf-8") -> Iterator[str]:
    r"""Yield the lines of a file with their ends as they are; only ``\n`` ends a line.

    Raises:
        DataError: the file cannot be read or is not in that encoding.
    """
    try:
        with path.open(encoding=encoding, newline="\n") as file:
            yield from file
    except UnicodeDecodeError as error:
        raise _not_in(path, encoding, error) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """Yield a path beside ``target`` to write to; it becomes ``target`` unless the block raises."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".part-", dir=target.parent)
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _not_in(path: Path, encoding: str, error: UnicodeDecodeError) -> DataError:
    return DataError(
        f"{path} is not {encoding} text: {error.reason}",
        remedy="convert the file; [data.text] has the option encoding for text that is not UTF-8",
    )
