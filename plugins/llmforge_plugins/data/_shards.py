"""Files of token ids as memory-mapped arrays. Nothing in them is ever executed.

``.npy`` and ``.npz`` are NumPy's own formats (NEP 1), read without pickle. A ``.bin`` file is raw
little-endian numbers (nanoGPT's ``prepare.py``), or has the header of llm.c, which modded-nanogpt
and others share: 256 int32 numbers, the first three a mark, a version and the count of tokens
(``dev/data/data_common.py`` in karpathy/llm.c: mark 20240520 version 1 for uint16, mark 20240801
version 7 for uint32).
"""

from __future__ import annotations

import hashlib
import os
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from llmforge.errors import DataError
from llmforge_plugins.data._compressed import SUFFIXES as COMPRESSED
from llmforge_plugins.data._compressed import blocks, with_suffixes
from llmforge_plugins.data._files import written_whole

_ENDINGS = (".npy", ".npz", ".bin")
SUFFIXES = (*_ENDINGS, *with_suffixes((".npy", ".bin"))[2:])

_HEADER_BYTES = 256 * 4
_HEADERS = {(20240520, 1): "<u2", (20240801, 7): "<u4"}
_MARKS = {mark for mark, _ in _HEADERS}
_HEADER_START = struct.Struct("<iii")
_KEYS = ("tokens", "input_ids")
_BLOCK = 1 << 20
_HEADER_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_LOCAL_HEADER = struct.Struct("<26xHH")  # of a ZIP member: lengths of its name and extra field


def open_shard(
    path: Path, *, name: str, sha256: str, dtype: str, key: str | None, cache: Path
) -> NDArray[Any]:
    """Return the ids in ``path`` as a read-only array of one dimension, memory-mapped.

    Rows of a table of ids follow each other. A compressed file is unpacked into the cache.

    Args:
        path: a local file.
        name: what messages call it.
        sha256: of the file; names what is unpacked from it.
        dtype: of a ``.bin`` without a header: ``uint16`` or ``uint32``.
        key: the array's name in an ``.npz``.
        cache: where to unpack.

    Raises:
        DataError: the file is no such shard, or is cut short.
    """
    try:
        if path.suffix in COMPRESSED:
            path = _unpacked(path, sha256, cache)
        if path.suffix == ".npy":
            ids = _map_npy(path, name)
        elif path.suffix == ".npz":
            ids = _open_npz(path, name, sha256, key, cache)
        elif path.suffix == ".bin":
            ids = _map_bin(path, name, dtype)
        else:
            raise DataError(f"{name} is not a shard: known endings are {', '.join(_ENDINGS)}")
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error, OSError) as error:
        raise DataError(f"{name} cannot be read as a shard of tokens: {error}") from error
    if ids.dtype.kind not in "iu":
        raise DataError(f"{name} holds {ids.dtype} numbers, not token ids")
    return ids


def _unpacked(path: Path, sha256: str, cache: Path) -> Path:
    """Return the unpacked copy of a compressed file in the cache."""
    digest = hashlib.sha256(f"{sha256}/unpacked".encode()).hexdigest()
    target = cache / "datasets" / "unpacked" / f"{digest[:32]}{path.with_suffix('').suffix}"
    if not target.exists():
        with written_whole(target) as partial, partial.open("wb") as file:
            file.writelines(blocks(path))
    return target


def _map_npy(path: Path, name: str) -> NDArray[Any]:
    with path.open("rb") as file:
        return _map_array(file, path, name)


def _map_array(file: IO[bytes], path: Path, name: str) -> NDArray[Any]:
    """Map the array whose ``.npy`` header ``file`` stands at, without reading it."""
    version = np.lib.format.read_magic(file)
    if version not in _HEADER_READERS:
        raise DataError(f"{name} is of version {version} of NumPy's format, which holds no ids")
    shape, fortran, dtype = _HEADER_READERS[version](file)
    if dtype.hasobject:
        raise DataError(f"{name} holds Python objects, which are never loaded")
    if fortran and len(shape) > 1:
        raise DataError(f"{name} holds its rows mixed up (Fortran order)", remedy="save it again")
    count, offset = int(np.prod(shape, dtype=np.int64)), file.tell()
    return _map(path, name, dtype, count=count, offset=offset)


def _map_bin(path: Path, name: str, dtype: str) -> NDArray[Any]:
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEADER_BYTES)
    mark, version, count = _HEADER_START.unpack_from(head.ljust(_HEADER_BYTES, b"\0"))
    if mark in _MARKS and len(head) == _HEADER_BYTES:
        kind = _HEADERS.get((mark, version))
        if kind is None:
            raise DataError(f"{name} has the mark {mark} with the unknown version {version}")
        found = np.dtype(kind)
        if size != _HEADER_BYTES + count * found.itemsize:
            raise DataError(
                f"{name} says that it has {count} tokens, and its {size} bytes hold "
                f"{(size - _HEADER_BYTES) / found.itemsize:g}"
            )
        return _map(path, name, found, count=count, offset=_HEADER_BYTES)
    raw = np.dtype(dtype).newbyteorder("<")
    if size % raw.itemsize:
        raise DataError(f"{name} has {size} bytes, not a whole number of {dtype}")
    return _map(path, name, raw, count=size // raw.itemsize, offset=0)


def _map(path: Path, name: str, dtype: np.dtype[Any], *, count: int, offset: int) -> NDArray[Any]:
    if path.stat().st_size < offset + count * dtype.itemsize:
        raise DataError(f"{name} is cut short: it should hold {count} numbers")
    if count == 0:  # an empty range cannot be mapped
        return np.empty(0, dtype)
    return np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=(count,)).view(np.ndarray)


def _open_npz(path: Path, name: str, sha256: str, key: str | None, cache: Path) -> NDArray[Any]:
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(_member(archive, name, key))
        if member.compress_type == zipfile.ZIP_STORED:
            with path.open("rb") as file:
                file.seek(member.header_offset)
                lengths = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
                file.seek(sum(lengths), os.SEEK_CUR)
                return _map_array(file, path, name)
        digest = hashlib.sha256(f"{sha256}/{member.filename}".encode()).hexdigest()
        unpacked = cache / "datasets" / "unpacked" / f"{digest[:32]}.npy"
        if not unpacked.exists() or unpacked.stat().st_size != member.file_size:
            _unpack(archive, member, unpacked)
    return _map_npy(unpacked, name)


def _member(archive: zipfile.ZipFile, name: str, key: str | None) -> str:
    """Return the file name of the wanted array."""
    keys = [item.removesuffix(".npy") for item in archive.namelist() if item.endswith(".npy")]
    wanted = [key] if key is not None else [item for item in _KEYS if item in keys]
    if key is None and not wanted and len(keys) == 1:
        wanted = keys
    if not wanted or wanted[0] not in keys:
        raise DataError(
            f"{name} has the arrays {', '.join(keys) or 'none'}"
            + (f", and no '{key}'" if key is not None else ""),
            remedy="set data.tokens.key to the one that holds the tokens",
        )
    return f"{wanted[0]}.npy"


def _unpack(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    """Write a member to ``target``, and no byte more than the archive announces."""
    with (
        written_whole(target) as partial,
        partial.open("wb") as file,
        archive.open(member) as source,
    ):
        left = member.file_size
        while block := source.read(min(_BLOCK, left)):
            file.write(block)
            left -= len(block)
        if left:
            raise DataError(f"{archive.filename} is cut short")
