"""Tensors cut into what several ranks hold, and written as a checkpoint's slices are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor

from llmforge.checkpoint import load_tensors
from llmforge.checkpoint.format import PARTS, Part, index_file, slice_file, tensor_file
from llmforge.checkpoint.hashed_files import FileEntry, hash_file, read_chunks, write_file
from llmforge.checkpoint.host_tensors import DTYPES, HostBuffer
from llmforge.checkpoint.manifest import MANIFEST, encode_manifest, read_manifest
from llmforge.checkpoint.publish import Draft, publish
from llmforge.checkpoint.slice_index import Piece, encode_index, indexed

Holding = tuple[Tensor, int]
"""A flat part of a tensor, and the element of the whole it begins with."""


Cut = dict[str, tuple[Tensor, tuple[Holding, ...]]]
"""The whole of each tensor and its parts in order of ranks."""


def cut(tensors: Mapping[str, Tensor], ranks: int) -> Cut:
    """Cut each of ``tensors`` into equal parts, the last of them shorter."""
    found: Cut = {}
    for name, tensor in tensors.items():
        flat = tensor.reshape(-1)
        share = -(-flat.numel() // ranks)
        begins = [min(rank * share, flat.numel()) for rank in range(ranks)]
        found[name] = (tensor, tuple((flat[at : at + share], at) for at in begins))
    return found


def write_sliced(folder: Path, parts: Cut, part: Part = "model") -> Path:
    """Write the slices of every rank and their index below ``folder``; return the index."""
    ranks = max(len(holdings) for _, holdings in parts.values())
    for rank in range(ranks):
        buffer = HostBuffer()
        buffer.copy_from({name: holdings[rank][0] for name, (_, holdings) in parts.items()})
        buffer.write(folder / slice_file(part, rank, ranks))
    index = {
        name: indexed(name, DTYPES[whole.dtype], tuple(whole.shape), _pieces(holdings, part))
        for name, (whole, holdings) in parts.items()
    }
    path = folder / index_file(part)
    path.write_bytes(encode_index(index))
    return path


def slice_up(checkpoint: Path, ranks: int) -> None:
    """Make of a checkpoint in whole files the one that ``ranks`` ranks would have written."""
    for part in PARTS:
        tensors = load_tensors(checkpoint, part)
        if tensors:
            write_sliced(checkpoint, cut(tensors, ranks), part)
            (checkpoint / tensor_file(part)).unlink()
    names = [path.relative_to(checkpoint).as_posix() for path in checkpoint.rglob("*")]
    files = {
        name: FileEntry((checkpoint / name).stat().st_size, hash_file(checkpoint / name))
        for name in names
        if (checkpoint / name).is_file() and name != MANIFEST
    }
    manifest = replace(read_manifest(checkpoint), files=files, world_size=ranks)
    (checkpoint / MANIFEST).write_bytes(encode_manifest(manifest))


def sliced_checkpoint(directory: Path, parts: Cut) -> Path:
    """Publish a checkpoint of step 100 whose weights are ``parts``; return its directory."""
    with TemporaryDirectory() as folder:
        write_sliced(Path(folder), parts)
        files = {path.name: partial(_copy, path) for path in Path(folder).iterdir()}
        return publish(directory, draft=Draft(step=100, recipe_hash="", files=files)).path


def _pieces(holdings: Sequence[Holding], part: Part) -> list[Piece]:
    return [
        Piece(slice_file(part, rank, len(holdings)), begin, tensor.numel())
        for rank, (tensor, begin) in enumerate(holdings)
    ]


def _copy(source: Path, path: Path) -> FileEntry:
    return write_file(path, read_chunks(source))
