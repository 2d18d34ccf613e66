"""A checkpoint on disk: names, listing, verification and reading. No torch until tensors are read.

::

    checkpoints/
      step-00000100/  manifest.json recipe.toml metadata.json trainer.json
                      model.safetensors optimizer.safetensors tokenizer/
                      or, for each of the two, slices: model-00001-of-00004.safetensors …
                      and model.safetensors.index.json, which says what lies where
      last, best      the name of a directory above: for people and scripts, never relied on here
      .tmp-… .old-… .del-…     work in progress of the process that trains the run
      step-00000100.corrupt-1  damaged and set aside
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llmforge.checkpoint.hashed_files import hash_file
from llmforge.checkpoint.manifest import Manifest, read_manifest, unreadable
from llmforge.checkpoint.slice_index import read_index
from llmforge.errors import CheckpointError
from llmforge.progress import track

if TYPE_CHECKING:
    from llmforge.checkpoint.lazy_tensors import StoredTensors
    from llmforge.interfaces import Progress

RECIPE = "recipe.toml"
METADATA = "metadata.json"
TRAINER = "trainer.json"
TOKENIZER = "tokenizer"
REFERENCE_FILE = "reference.safetensors"
"""What the objective compares with, in the runs of those that need it."""
LAST = "last"
BEST = "best"
PINNED = "pinned"

Part = Literal["model", "optimizer"]
PARTS: tuple[Part, ...] = ("model", "optimizer")

_ANOTHER = "take another checkpoint; 'forge checkpoints list RUN --verify' shows which are sound"
_STEP = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose manifest is readable; :func:`verify` tells whether the rest is sound."""

    step: int
    path: Path
    manifest: Manifest

    @property
    def is_best(self) -> bool:
        """Whether it was the best so far when it was saved."""
        return self.manifest.is_best

    @property
    def is_pinned(self) -> bool:
        """Whether the user wants it kept; see :func:`pin`."""
        return (self.path / PINNED).exists()


def step_name(step: int) -> str:
    """Return the name of the directory that holds ``step``."""
    return f"step-{step:08d}"


def tensor_file(part: Part) -> str:
    """Return the name of the file that holds the tensors of ``part``."""
    return f"{part}.safetensors"


def slice_file(part: Part, rank: int, world_size: int) -> str:
    """Return the name of the file with what ``rank`` holds of the tensors of ``part``."""
    return f"{part}-{rank + 1:05d}-of-{world_size:05d}.safetensors"


def index_file(part: Part) -> str:
    """Return the name of the index of the tensors of ``part``, where ranks wrote slices."""
    return f"{part}.safetensors.index.json"


def tensor_files(files: Iterable[str], part: Part) -> list[str]:
    """Return those of ``files`` that hold the tensors of ``part``, their index first."""
    slices = re.compile(rf"{part}-\d+-of-\d+\.safetensors")
    own = {tensor_file(part), index_file(part)}
    found = [name for name in files if name in own or slices.fullmatch(name)]
    return sorted(found, key=lambda name: (name not in own, name))


def step_directories(directory: Path) -> list[tuple[int, Path]]:
    """Return (step, path) of every checkpoint directory, sound or not, in order of steps.

    Raises:
        CheckpointError: ``directory`` may not be read by this user.
    """
    if not directory.is_dir():
        return []
    try:
        found = [(_STEP.fullmatch(path.name), path) for path in directory.iterdir()]
    except PermissionError as error:
        raise unreadable(directory, error) from error
    return sorted((int(match[1]), path) for match, path in found if match)


def open_checkpoint(path: Path) -> Checkpoint:
    """Return the checkpoint in the directory ``path``.

    Raises:
        CheckpointError: it has no readable manifest.
    """
    manifest = read_manifest(path)
    return Checkpoint(manifest.step, path, manifest)


def list_checkpoints(directory: Path) -> list[Checkpoint]:
    """Return the checkpoints with a readable manifest in order of steps; opens nothing else."""
    found = []
    for _, path in step_directories(directory):
        try:
            found.append(open_checkpoint(path))
        except CheckpointError:
            continue  # Damaged ones are reported where one is chosen: resolve, newest_valid.
    return found


def verify(path: Path, *, hashes: bool = True) -> list[str]:
    """Return everything that is wrong with the checkpoint in ``path``; empty when it is sound.

    Args:
        path: the checkpoint directory.
        hashes: also read every file and compare its SHA-256, not only its size.

    Raises:
        CheckpointError: a file may not be read by this user, so nothing can be said.
    """
    try:
        manifest = read_manifest(path)
    except CheckpointError as error:
        if isinstance(error.__cause__, PermissionError):
            raise
        return [error.message]
    wrong = []
    match = _STEP.fullmatch(path.name)
    if match and int(match[1]) != manifest.step:
        wrong.append(f"{path.name} holds a manifest of step {manifest.step}")
    with track(f"verifying {path.name}", total=_size_of(manifest, manifest.files)) as task:
        for name in manifest.files:
            wrong += _verify_file(path, name, manifest, hashes=hashes, moved=task.advance)
    return wrong or [problem for part in PARTS for problem in _verify_index(path, part, manifest)]


def _size_of(manifest: Manifest, names: Iterable[str]) -> int:
    return sum(manifest.files[name].size for name in names)


def _verify_file(
    path: Path, name: str, manifest: Manifest, *, hashes: bool, moved: Progress
) -> list[str]:
    entry = manifest.files[name]
    file = path / name
    try:
        size = file.stat().st_size
        if size != entry.size:
            return [f"{name} has {size} bytes instead of {entry.size}"]
        if hashes and hash_file(file, moved=moved) != entry.sha256:
            return [f"{name} was altered: its SHA-256 does not match the manifest"]
    except FileNotFoundError:
        return [f"{name} is missing"]
    except PermissionError as error:
        raise unreadable(file, error) from error
    except OSError as error:
        return [f"{name} cannot be read: {error.strerror}"]
    return []


def _verify_index(path: Path, part: Part, manifest: Manifest) -> list[str]:
    if index_file(part) not in manifest.files:
        return []
    try:
        index = read_index(path / index_file(part))
    except CheckpointError as error:
        return [error.message]
    files = {piece.file for item in index.values() for piece in item.pieces}
    return [
        f"{index_file(part)} names {name}, which is no file of it"
        for name in sorted(files - set(manifest.files))
    ]


def read_trainer(path: Path) -> dict[str, Any]:
    """Return the trainer's state kept in the checkpoint ``path``."""
    return _read_json(path / TRAINER)


def read_metadata(path: Path) -> dict[str, Any]:
    """Return what the checkpoint ``path`` tells people: time, losses, history, versions."""
    return _read_json(path / METADATA)


def load_tensors(path: Path, part: Part, *, verified: bool = False) -> StoredTensors:
    """Return the tensors of ``part`` by name, each read when it is asked for, on the CPU.

    Args:
        path: the checkpoint directory.
        part: ``model`` or ``optimizer``.
        verified: the caller has run :func:`verify`; otherwise the files are checked first.

    Raises:
        CheckpointError: a file is missing or damaged, or tensors are not complete.
    """
    from llmforge.checkpoint.lazy_tensors import StoredTensors

    manifest = read_manifest(path)
    names = tensor_files(manifest.files, part)
    if not names:
        raise CheckpointError(f"{path} holds no {tensor_file(part)}")
    if not verified:
        with track(f"verifying {path.name}", total=_size_of(manifest, names)) as task:
            for name in names:
                if wrong := _verify_file(path, name, manifest, hashes=True, moved=task.advance):
                    raise CheckpointError(f"{path} is damaged: {wrong[0]}", remedy=_ANOTHER)
    try:
        if names[0] == index_file(part):
            return StoredTensors.of_index(path / names[0])
        return StoredTensors.of_file(path / tensor_file(part))
    except CheckpointError as error:
        raise CheckpointError(error.message, remedy=error.remedy or _ANOTHER) from error


def pin(path: Path) -> None:
    """Keep the checkpoint ``path`` until it is unpinned, whatever retention says."""
    (path / PINNED).touch()


def unpin(path: Path) -> None:
    """Let retention treat the checkpoint ``path`` like any other."""
    (path / PINNED).unlink(missing_ok=True)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} cannot be read: a JSON object is expected")
    return value
