"""A checkpoint as one archive: equal contents give equal bytes, and unpacking is careful.

An archive is a plain tar file (regular files, names of at most 100 bytes), compressed. Reading
takes nothing from it but bytes: which files there are, how large and with what hash is known
beforehand from the COMMIT, and anything else ends it. So there is nothing a link, a device, a
``..``, a header of an unusual kind or a bomb could do.
"""

from __future__ import annotations

import gzip
import hashlib
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from llmforge.checkpoint.hashed_files import CHUNK, FileEntry, write_file
from llmforge.component import importable
from llmforge.errors import CheckpointError, Problem, StorageError
from llmforge.installed import install_command
from llmforge.interfaces import Progress
from llmforge.remote.layout import is_safe

NONE = "none"
_BLOCK = 512
_LONGEST_NAME = 100
_GZIP_LEVEL, _ZSTD_LEVEL = 1, 3  # Weights hardly shrink: more effort buys nothing.
_LARGEST_WINDOW = 1 << 27  # of a zstd stream, bytes; what an honest one needs at most here is 2^21


class _Readable(Protocol):
    def read(self, size: int = -1, /) -> bytes: ...


def archive_name(kind: str) -> str:
    """Return the name of an archive of ``kind``."""
    return f"archive.{kind}"


def missing_package(kind: str) -> Problem | None:
    """Return what has to be installed before archives of ``kind`` can be written or read."""
    if kind != "tar.zst" or importable("zstandard"):
        return None
    return Problem(
        key="storage.archive",
        message="tar.zst archives need the zstandard package",
        remedy=install_command("zstandard"),
    )


def pack(
    directory: Path,
    files: Mapping[str, FileEntry],
    archive: Path,
    *,
    kind: str,
    progress: Progress,
) -> None:
    """Write ``files`` of ``directory`` into the new file ``archive``, verifying each on the way.

    Raises:
        CheckpointError: a file is not what ``files`` says.
        StorageError: a name is too long for an archive, or a package is missing.
    """
    with archive.open("xb") as raw, _compressed(raw, kind) as stream:
        for name, entry in sorted(files.items()):
            stream.write(_header(name, entry.size))
            _pack_file(directory / name, entry, stream.write, progress)
            stream.write(bytes(-entry.size % _BLOCK))
        stream.write(bytes(2 * _BLOCK))


def unpack(
    archive: Path,
    files: Mapping[str, FileEntry],
    target: Path,
    *,
    kind: str,
    progress: Progress,
) -> None:
    """Write exactly ``files`` out of ``archive`` into the new directory ``target``, each verified.

    Raises:
        StorageError: the archive is not exactly these files; ``target`` is not there then.
    """
    target.mkdir()
    try:
        with archive.open("rb") as raw, _decompressed(raw, kind) as stream:
            left = dict(files)
            while (name := _next_file(stream, left)) is not None:
                _unpack_file(stream, target, name, left.pop(name), progress)
        if left:
            raise StorageError(f"it holds no {min(left)}")
    except BaseException as error:
        shutil.rmtree(target)
        if isinstance(error, StorageError):
            raise StorageError(f"{archive.name} is refused: {error.message}") from error
        if isinstance(error, (*_damages(kind), EOFError)):
            raise StorageError(f"{archive.name} is damaged: {error}") from error
        raise


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    header = info.tobuf(tarfile.GNU_FORMAT, "utf-8")
    if len(header) != _BLOCK:
        raise StorageError(
            f"{name}: names in an archive have at most {_LONGEST_NAME} bytes",
            remedy='set storage.archive = "none"',
        )
    return header


def _pack_file(
    path: Path, entry: FileEntry, write: Callable[[bytes], Any], progress: Progress
) -> None:
    digest = hashlib.sha256()
    left = entry.size
    with path.open("rb") as file:
        while chunk := file.read(min(CHUNK, left + 1)):
            digest.update(chunk)
            left -= len(chunk)
            if left < 0:
                break
            write(chunk)
            progress(len(chunk))
    if left or digest.hexdigest() != entry.sha256:
        raise CheckpointError(f"{path} was altered: it does not match the manifest")


def _next_file(stream: _Readable, left: Mapping[str, FileEntry]) -> str | None:
    """Return the name of the next file, one of ``left``; None at the end of the archive."""
    block = _exactly(stream, _BLOCK)
    if not block.strip(b"\0"):
        return None
    info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        raise StorageError(f"{info.name!r} is not a regular file")
    if info.name not in left or not is_safe(info.name):
        raise StorageError(f"it holds {info.name!r}, which the checkpoint does not have")
    if info.size != left[info.name].size:
        raise StorageError(f"{info.name!r} has {info.size} bytes, not {left[info.name].size}")
    return info.name


def _unpack_file(
    stream: _Readable, target: Path, name: str, entry: FileEntry, progress: Progress
) -> None:
    path = target / name
    path.parent.mkdir(parents=True, exist_ok=True)

    def chunks() -> Iterator[bytes]:
        left = entry.size
        while left:
            chunk = _exactly(stream, min(CHUNK, left))
            left -= len(chunk)
            progress(len(chunk))
            yield chunk

    if write_file(path, chunks()) != entry:
        raise StorageError(f"{name!r} is not what was committed")
    _exactly(stream, -entry.size % _BLOCK)


def _exactly(stream: _Readable, size: int) -> bytes:
    parts = []
    while size:
        part = stream.read(size)
        if not part:
            raise EOFError("it ends too early")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


@contextmanager
def _compressed(raw: BinaryIO, kind: str) -> Iterator[Any]:
    with ExitStack() as stack:
        if kind == "tar.gz":
            stream: Any = gzip.GzipFile(
                filename="", mode="wb", compresslevel=_GZIP_LEVEL, fileobj=raw, mtime=0
            )
        else:
            stream = (
                _zstandard(kind).ZstdCompressor(level=_ZSTD_LEVEL).stream_writer(raw, closefd=False)
            )
        yield stack.enter_context(stream)


@contextmanager
def _decompressed(raw: BinaryIO, kind: str) -> Iterator[_Readable]:
    if kind == "tar.gz":
        with gzip.GzipFile(fileobj=raw, mode="rb") as stream:
            yield stream
        return
    decompressor = _zstandard(kind).ZstdDecompressor(max_window_size=_LARGEST_WINDOW)
    with decompressor.stream_reader(raw, closefd=False) as stream:
        yield stream


def _damages(kind: str) -> tuple[type[Exception], ...]:
    """Return what reading damaged bytes raises."""
    known: tuple[type[Exception], ...] = (zlib.error, gzip.BadGzipFile, tarfile.TarError)
    return known if kind == "tar.gz" else (*known, _zstandard(kind).ZstdError)


def _zstandard(kind: str) -> Any:
    if kind != "tar.zst":
        raise StorageError(f"'{kind}' is not a kind of archive", remedy="none, tar.gz or tar.zst")
    problem = missing_package(kind)
    if problem is not None:
        raise StorageError(problem.message, remedy=problem.remedy)
    import zstandard

    return zstandard
