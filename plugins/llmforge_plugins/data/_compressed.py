"""Files compressed with gzip, xz, bzip2 or Zstandard, read as if they were not.

What a file is compressed with is read from its first bytes (RFC 1952, RFC 8878 and the formats' own
documents), not by its name.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from llmforge import install_command
from llmforge.errors import DataError
from llmforge.interfaces import Progress

SUFFIXES = (".gz", ".xz", ".bz2", ".zst")

_MAGIC = {
    b"\x1f\x8b\x08": "gzip",
    b"\xfd7zXZ\0": "xz",
    b"BZh": "bzip2",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_LONGEST_MAGIC = max(map(len, _MAGIC))
_BZIP2_BLOCKS = (b"\x31\x41\x59\x26\x53\x59", b"\x17\x72\x45\x38\x50\x90")
_PLAIN_BLOCK = 1 << 20
_COMPRESSED_BLOCK = 1 << 14  # small: it may unpack to a thousand times as much


def with_suffixes(suffixes: tuple[str, ...]) -> tuple[str, ...]:
    """Return ``suffixes`` as they are, and each followed by that of a compression."""
    return (*suffixes, *(f"{name}{ending}" for name in suffixes for ending in SUFFIXES))


def compression(path: Path) -> str | None:
    """Return what a file is compressed with, None when it is not.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return _kind(file.read(16))


def blocks(path: Path, *, moved: Progress = lambda _: None) -> Iterator[bytes]:
    """Yield the content of a file, unpacked; ``moved`` is given the bytes read, as they are.

    Raises:
        DataError: it cannot be read, is damaged or cut short, or a package for it is missing.
    """
    try:
        kind = compression(path)
        with path.open("rb") as file:
            if kind is None:
                yield from _read(file, _PLAIN_BLOCK, moved)
            else:
                packed = _read(file, _COMPRESSED_BLOCK, moved)
                yield from _unpacked(packed, _decompressor(kind, path), path, kind)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def _read(file: BinaryIO, size: int, moved: Progress) -> Iterator[bytes]:
    while block := file.read(size):
        moved(len(block))
        yield block


def _kind(head: bytes) -> str | None:
    for magic, kind in _MAGIC.items():
        # A text may begin with BZh: the mark of the first block tells.
        if head.startswith(magic) and (kind != "bzip2" or head[4:10] in _BZIP2_BLOCKS):
            return kind
    return None


def _unpacked(
    packed: Iterator[bytes], make: Callable[[], Any], path: Path, kind: str
) -> Iterator[bytes]:
    """Yield what the streams in ``packed``, which may be several, unpack to."""
    stream = make()
    for block in packed:
        rest = block
        while rest:
            if stream.eof:
                rest = rest.lstrip(b"\0")  # padding
                if not rest:
                    break
                stream = make()
            try:
                content = stream.decompress(rest)
            except Exception as error:  # every library has errors of its own
                raise DataError(
                    f"{path} is damaged: its {kind} data cannot be unpacked: {error}",
                    remedy="fetch it again",
                ) from error
            if content:
                yield content
            rest = stream.unused_data if stream.eof else b""
    if not stream.eof:
        raise DataError(f"{path} is cut short: its {kind} data has no end", remedy="fetch it again")


def _decompressor(kind: str, path: Path) -> Callable[[], Any]:
    if kind == "gzip":
        return lambda: zlib.decompressobj(wbits=31)
    if kind == "xz":
        return lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ)
    if kind == "bzip2":
        return bz2.BZ2Decompressor
    try:
        import zstandard
    except ImportError as error:
        raise DataError(
            f"{path} is compressed with Zstandard, which the zstandard package reads",
            remedy=install_command("zstandard"),
        ) from error
    return lambda: zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
