"""Tensors kept in host memory exactly as a safetensors file holds them, and written from there."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from llmforge.checkpoint.hashed_files import CHUNK, FileEntry, write_file
from llmforge.checkpoint.safetensors_header import Place, encode_header, lay_out
from llmforge.errors import CheckpointError

DTYPES: Mapping[torch.dtype, str] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""The types a file can hold, by the names the format has for them."""


class HostBuffer:
    """One block of host memory that holds a set of tensors, kept from checkpoint to checkpoint.

    The block is laid out for the first tensors it is given and again only when names, shapes or
    types change. Copies out of CUDA memory go through pinned memory.
    """

    def __init__(self) -> None:
        self._flat = torch.empty(0, dtype=torch.uint8)
        self._places: tuple[Place, ...] = ()
        self._views: tuple[Tensor, ...] = ()
        self._header = encode_header(())

    @property
    def nbytes(self) -> int:
        """Size in bytes of the file :meth:`write` makes."""
        return len(self._header) + (self._places[-1].end if self._places else 0)

    @property
    def places(self) -> tuple[Place, ...]:
        """Every tensor and where it is in the file's data."""
        return self._places

    def prepare(self, tensors: Mapping[str, Tensor]) -> None:
        """Lay the block out for ``tensors`` and touch its pages, so that the first copy is fast.

        Raises:
            CheckpointError: a tensor has a type the format cannot hold.
        """
        if self._fits(tensors):
            return
        places = lay_out(_specified(tensors))
        size = places[-1].end if places else 0
        pinned = any(tensor.is_cuda for tensor in tensors.values())
        if size > self._flat.numel() or (pinned and not self._flat.is_pinned()):
            self._flat = torch.empty(0, dtype=torch.uint8)  # Freed first: never two at once.
            self._flat = torch.zeros(size, dtype=torch.uint8, pin_memory=pinned)
            self._flat.fill_(1)  # Zeroed memory may be promised only; a write makes it real.
        self._places = places
        self._views = tuple(
            self._flat[place.begin : place.end].view(tensors[place.name].dtype).view(place.shape)
            for place in places
        )
        self._header = encode_header(places)

    def copy_from(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy ``tensors`` into the block; when this returns they may change again.

        The copies run on a few threads and release the GIL.

        Raises:
            CheckpointError: a tensor has a type the format cannot hold.
        """
        self.prepare(tensors)
        plain: list[tuple[int, int, int]] = []
        with torch.no_grad():
            for place, view in zip(self._places, self._views, strict=True):
                tensor = tensors[place.name]
                if tensor.device.type == "cpu" and tensor.is_contiguous() and not tensor.is_neg():
                    plain.append((view.data_ptr(), tensor.data_ptr(), place.end - place.begin))
                else:
                    view.copy_(tensor, non_blocking=True)
        copy_memory(plain, threads=torch.get_num_threads())
        for device in {tensor.device for tensor in tensors.values() if tensor.is_cuda}:
            torch.cuda.synchronize(device)

    def write(self, path: Path) -> FileEntry:
        """Write the block to the new safetensors file ``path`` and force it to the disk.

        Writing, hashing and forcing release the GIL; nothing is copied.

        Raises:
            OSError: the disk does not take it.
        """
        return write_file(path, self._chunks())

    def _chunks(self) -> Iterator[bytes | memoryview]:
        yield self._header
        size = self.nbytes - len(self._header)
        if size == 0:
            return
        data = self._flat.numpy().data[:size]
        for begin in range(0, size, CHUNK):
            yield data[begin : begin + CHUNK]

    def _fits(self, tensors: Mapping[str, Tensor]) -> bool:
        if len(tensors) != len(self._places):
            return False
        return all(
            (tensor := tensors.get(place.name)) is not None
            and view.dtype == tensor.dtype
            and view.shape == tensor.shape
            for place, view in zip(self._places, self._views, strict=True)
        )


def _specified(tensors: Mapping[str, Tensor]) -> dict[str, tuple[str, tuple[int, ...]]]:
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPES or tensor.layout is not torch.strided:
            raise CheckpointError(f"tensor '{name}' cannot be saved: it is {tensor.dtype}")
    return {name: (DTYPES[tensor.dtype], tuple(tensor.shape)) for name, tensor in tensors.items()}


Block = tuple[int, int, int]
"""Addresses of target and source, and the number of bytes."""

_MOST_THREADS = 4  # Memory has no more to give.
_WORTH_A_THREAD = 1 << 20


def copy_memory(blocks: Sequence[Block], *, threads: int) -> None:
    """Copy each of ``blocks``, which must not overlap, on at most ``threads`` threads.

    ``ctypes`` releases the GIL during each copy.
    """
    total = sum(size for _, _, size in blocks)
    parts = split(blocks, max(1, min(threads, _MOST_THREADS, total // _WORTH_A_THREAD)))
    others = [_pool().submit(_copy, part) for part in parts[1:]]
    _copy(parts[0])
    for other in others:
        other.result()


def split(blocks: Sequence[Block], count: int) -> list[list[Block]]:
    """Return ``blocks`` as ``count`` lists of about as many bytes, cutting blocks where needed."""
    share = -(-sum(size for _, _, size in blocks) // count)
    parts: list[list[Block]] = [[]]
    room = share
    for target, source, size in blocks:
        while size > room:
            parts[-1].append((target, source, room))
            target, source, size = target + room, source + room, size - room
            parts.append([])
            room = share
        parts[-1].append((target, source, size))
        room -= size
    return parts


def _copy(blocks: Sequence[Block]) -> None:
    for target, source, size in blocks:
        ctypes.memmove(target, source, size)


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_MOST_THREADS - 1, thread_name_prefix="checkpoint-copy")
