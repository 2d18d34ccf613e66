"""Which files a rank writes into a checkpoint, and with what in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from llmforge.checkpoint.format import (
    PARTS,
    RECIPE,
    REFERENCE_FILE,
    TOKENIZER,
    Part,
    index_file,
    tensor_file,
)
from llmforge.checkpoint.frozen_weights import FrozenWeights
from llmforge.checkpoint.hashed_files import FileEntry, read_chunks, write_file
from llmforge.checkpoint.publish import FileWriter, preflight_space
from llmforge.checkpoint.rank_group import LEADER, Crew, everyone, led
from llmforge.checkpoint.rank_slices import Held, share_out
from llmforge.checkpoint.slice_index import Index, encode_index
from llmforge.checkpoint.snapshot import Snapshot


@dataclass(frozen=True, kw_only=True)
class SelfDescription:
    """What is the same in every checkpoint of a run, so that each can be used without the run.

    Attributes:
        recipe: the resolved recipe as TOML.
        recipe_hash: its identity.
        tokenizer: directory whose files are copied into each checkpoint, or None.
        reference: file that is copied into each, or None.
        world_size: number of processes that train.
        frozen: the weights that are in no checkpoint, or None.
    """

    recipe: str
    recipe_hash: str
    tokenizer: Path | None = None
    reference: Path | None = None
    world_size: int = 1
    frozen: FrozenWeights | None = None


def contents(
    snapshot: Snapshot, description: SelfDescription, *, directory: Path, crew: Crew | None
) -> dict[str, FileWriter]:
    """Return a writer for each file that this rank writes of the checkpoint in ``snapshot``.

    The ranks tell each other what they hold; whole tensors and all that are no tensors are the
    leader's to write.

    Raises:
        CheckpointError: the ranks do not hold every element of every tensor once, or there is no
            room for it in ``directory``.
    """
    rank = LEADER if crew is None else crew.rank
    names, indices = _shared_out(snapshot, directory=directory, crew=crew)
    files: dict[str, FileWriter] = {}
    if rank == LEADER:
        files[RECIPE] = _writes(description.recipe.encode())
        files |= {name: _writes(text) for name, text in snapshot.texts.items()}
    for part, buffer in snapshot.buffers.items():
        if (name := names[part][rank]) is not None:
            files[name] = buffer.write
    for part, index in indices.items():
        files[index_file(part)] = _writes(encode_index(index))
    if rank == LEADER and description.tokenizer is not None:
        files |= _copies(description.tokenizer)
    if rank == LEADER and description.reference is not None:
        files[REFERENCE_FILE] = partial(_copy, description.reference)
    return files


def _shared_out(
    snapshot: Snapshot, *, directory: Path, crew: Crew | None
) -> tuple[Mapping[str, Sequence[str | None]], dict[Part, Index]]:
    """Return the file of each rank for each part, and on the leader the indices they need."""
    if crew is None and not snapshot.slices:
        preflight_space(directory, snapshot.nbytes)
        return {part: [tensor_file(part)] for part in PARTS}, {}
    told = everyone(crew, lambda: _told(snapshot))
    indices: dict[Part, Index] = {}

    def share() -> dict[str, Sequence[str | None]]:
        preflight_space(directory, sum(each["bytes"] for each in told))
        names: dict[str, Sequence[str | None]] = {}
        for part in PARTS:
            shares = share_out(part, [_holding(each[part]) for each in told])
            names[part] = shares.files
            if shares.index is not None:
                indices[part] = shares.index
        return names

    return led(crew, share), indices


def _told(snapshot: Snapshot) -> dict[str, Any]:
    held: dict[str, Any] = {
        part: {name: item.to_json() for name, item in snapshot.holding(part).items()}
        for part in PARTS
    }
    return {"bytes": snapshot.nbytes, **held}


def _holding(told: Mapping[str, Any]) -> dict[str, Held]:
    return {name: Held.from_json(item) for name, item in told.items()}


def _copies(tokenizer: Path) -> dict[str, FileWriter]:
    return {
        f"{TOKENIZER}/{path.relative_to(tokenizer).as_posix()}": partial(_copy, path)
        for path in sorted(tokenizer.rglob("*"))
        if path.is_file()
    }


def _writes(content: bytes) -> FileWriter:
    return lambda path: write_file(path, [content])


def _copy(source: Path, path: Path) -> FileEntry:
    return write_file(path, read_chunks(source))
