"""Tensors cut into what several ranks hold, and written as a checkpoint's slices are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from checkpoint_drafts import content
from torch import Tensor

from llmforge.checkpoint.format import index_file, slice_file
from llmforge.checkpoint.index import Piece, encode_index, indexed
from llmforge.checkpoint.publish import Draft, publish
from llmforge.checkpoint.tensors import DTYPES, HostBuffer

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


def write_sliced(folder: Path, parts: Cut) -> Path:
    """Write the slices of every rank and their index below ``folder``; return the index."""
    ranks = max(len(holdings) for _, holdings in parts.values())
    for rank in range(ranks):
        buffer = HostBuffer()
        buffer.copy_from({name: holdings[rank][0] for name, (_, holdings) in parts.items()})
        buffer.write(folder / slice_file("model", rank, ranks))
    index = {
        name: indexed(name, DTYPES[whole.dtype], tuple(whole.shape), _pieces(holdings))
        for name, (whole, holdings) in parts.items()
    }
    path = folder / index_file("model")
    path.write_bytes(encode_index(index))
    return path


def sliced_checkpoint(directory: Path, parts: Cut) -> Path:
    """Publish a checkpoint of step 100 whose weights are ``parts``; return its directory."""
    with TemporaryDirectory() as folder:
        write_sliced(Path(folder), parts)
        files = {path.name: content(path.read_bytes()) for path in Path(folder).iterdir()}
    return publish(directory, draft=Draft(step=100, recipe_hash="", files=files)).path


def _pieces(holdings: Sequence[Holding]) -> list[Piece]:
    return [
        Piece(slice_file("model", rank, len(holdings)), begin, tensor.numel())
        for rank, (tensor, begin) in enumerate(holdings)
    ]
