"""The weights of a checkpoint, however many ranks wrote it, as one safetensors file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from llmforge.checkpoint import Checkpoint, StoredTensors, load_tensors
from llmforge.checkpoint.hashed_files import CHUNK, FileEntry, write_file
from llmforge.checkpoint.safetensors_header import ITEM_SIZES, Place, encode_header, lay_out
from llmforge.errors import CheckpointError, UsageError
from llmforge.export.whole_model import merge_adapter, whole_weights
from llmforge.rundir.atomic import sync_directory

_SUFFIX = ".safetensors"


def export_weights(checkpoint: Checkpoint, target: Path, *, overwrite: bool = False) -> FileEntry:
    """Write the weights of ``checkpoint`` to the safetensors file ``target``, whole or not at all.

    Those that do not train are in no checkpoint, and not in the file. The checkpoint's files are
    verified first. A few megabytes at a time are in memory. Equal
    weights give equal files, whatever backend and number of ranks wrote them.

    Raises:
        UsageError: ``target`` is there already, or cannot be such a file.
        CheckpointError: the checkpoint is damaged, or the disk does not take the file.
    """
    _check_target(target, overwrite=overwrite)
    tensors = load_tensors(checkpoint.path, "model")
    places = lay_out({name: (tensors.dtype(name), tensors.shape(name)) for name in tensors})
    return _write(target, _chunks(places, tensors))


def export_merged(
    checkpoint: Checkpoint,
    target: Path,
    *,
    overwrite: bool = False,
    notice: Callable[[str], None] | None = None,
) -> FileEntry:
    """Write all weights of ``checkpoint`` to ``target``, frozen ones too, its adapter merged.

    They have the names that the model has without the adapter. The model is in memory as a whole.

    Raises:
        UsageError: ``target`` is there already, or cannot be such a file.
        CheckpointError: the checkpoint is damaged, belongs to other frozen weights, or the disk
            does not take the file.
    """
    from safetensors.torch import save

    from llmforge.generation import load_checkpoint

    _check_target(target, overwrite=overwrite)
    loaded = load_checkpoint(checkpoint, device="cpu", dtype="fp32", notice=notice)
    merge_adapter(loaded)
    content = save(whole_weights(loaded.model))
    return _write(target, [content])


def _write(target: Path, chunks: Iterable[bytes | memoryview]) -> FileEntry:
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        temporary.unlink(missing_ok=True)
        entry = write_file(temporary, chunks)
        temporary.replace(target)
        sync_directory(target.parent)
    except OSError as error:
        raise CheckpointError(f"{target} cannot be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):  # where nothing can be written, nothing was
            temporary.unlink(missing_ok=True)
    return entry


def _check_target(target: Path, *, overwrite: bool) -> None:
    if target.suffix != _SUFFIX:
        raise UsageError(f"the file's name must end in {_SUFFIX}, got '{target}'")
    if not target.parent.is_dir():
        raise UsageError(f"there is no directory {target.parent}", remedy="make it first")
    if target.is_dir():
        raise UsageError(f"{target} is a directory")
    if target.exists() and not overwrite:
        raise UsageError(f"{target} already exists", remedy="--force replaces it")


def _chunks(places: tuple[Place, ...], tensors: StoredTensors) -> Iterator[bytes | memoryview]:
    import torch

    yield encode_header(places)
    for place in places:
        most = CHUNK // ITEM_SIZES[place.dtype]
        for begin in range(0, place.count, most):
            piece = tensors.slice(place.name, begin, min(most, place.count - begin))
            yield piece.view(torch.uint8).numpy().data
