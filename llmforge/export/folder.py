"""A checkpoint as a folder that others read, published whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from llmforge.checkpoint import Checkpoint
from llmforge.checkpoint.hashed_files import FileEntry

Layout = Literal["hf", "safetensors", "gguf"]

SHARD_SIZE = 5_000_000_000
"""Bytes of weights in one file at most, unless a single tensor has more."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A folder that was exported.

    Attributes:
        path: the folder.
        files: size and SHA-256 of every file in it, by its path within the folder.
    """

    path: Path
    files: Mapping[str, FileEntry]


def export_folder(
    checkpoint: Checkpoint,
    target: Path,
    *,
    layout: Layout = "hf",
    merge: bool = False,
    dtype: str | None = None,
    max_shard_size: int = SHARD_SIZE,
    overwrite: bool = False,
    notice: Callable[[str], None] = lambda _: None,
) -> Exported:
    """Write ``checkpoint`` to the new folder ``target``.

    Args:
        checkpoint: what to export.
        target: the folder, which does not exist or is empty.
        layout: ``hf`` for what ``transformers`` reads, ``safetensors`` for the weights under their
            own names, ``gguf`` for what llama.cpp reads.
        merge: add the weights of an adapter to those it changes; without it an adapter is written
            alone.
        dtype: ``fp32``, ``bf16`` or ``fp16``, for GGUF also ``q8_0``; None for fp32.
        max_shard_size: bytes of weights in one file at most.
        overwrite: replace a folder that is there.
        notice: told what the folder lacks.

    Raises:
        UsageError: ``target`` is there already, or the options make no sense.
        ExportError: the model has no form in this layout.
        CheckpointError: the checkpoint is damaged, or the disk does not take the folder.
    """
    raise NotImplementedError
