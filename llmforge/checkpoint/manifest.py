"""The manifest of a checkpoint: what is in it, and a seal that shows when it was altered.

A manifest is JSON. Its key ``seal`` is the SHA-256 of the rest, written with sorted keys and no
spaces; this holds for every ``format_version``, so that damage can be told from a newer format.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from llmforge.checkpoint.frozen_weights import FrozenWeights
from llmforge.checkpoint.hashed_files import FileEntry
from llmforge.errors import CheckpointError

FORMAT_VERSION = 2
"""The newest that is read. One that leaves out frozen weights is written as 2, any other as 1."""
_WITH_ALL_WEIGHTS = 1
MANIFEST = "manifest.json"


class NewerFormatError(CheckpointError):
    """A checkpoint of a later llmforge: sound, but not for this version to read."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a checkpoint holds.

    Attributes:
        step: optimizer steps taken.
        recipe_hash: identity of the recipe that was trained.
        world_size: number of processes that wrote it.
        parent: step of the checkpoint training resumed from, None for the first.
        created: time in UTC, ISO 8601.
        is_best: whether its evaluation was the best so far.
        files: every file by its relative name, the manifest excepted.
        frozen: the weights that belong to it and are not in it; None when it has all.
    """

    step: int
    recipe_hash: str
    world_size: int
    parent: int | None
    created: str
    is_best: bool
    files: Mapping[str, FileEntry]
    frozen: FrozenWeights | None = None
    format_version: int = _WITH_ALL_WEIGHTS

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(entry.size for entry in self.files.values())


def encode_manifest(manifest: Manifest) -> bytes:
    """Return ``manifest`` as sealed JSON."""
    frozen = {} if manifest.frozen is None else {"frozen": asdict(manifest.frozen)}
    body: dict[str, Any] = {
        "format_version": FORMAT_VERSION if frozen else manifest.format_version,
        "step": manifest.step,
        "recipe_hash": manifest.recipe_hash,
        "world_size": manifest.world_size,
        "parent": manifest.parent,
        "created": manifest.created,
        "is_best": manifest.is_best,
        **frozen,
        "files": {
            name: {"size": entry.size, "sha256": entry.sha256}
            for name, entry in sorted(manifest.files.items())
        },
    }
    return (json.dumps({**body, "seal": seal(body)}, indent=1) + "\n").encode()


def decode_manifest(text: str | bytes, checkpoint: Path) -> Manifest:
    """Return the manifest of ``checkpoint`` from the ``text`` of its file.

    Raises:
        CheckpointError: a later version of llmforge wrote it, or it was altered.
    """
    path = checkpoint / MANIFEST
    try:
        body = json.loads(text)
        sealed = body.pop("seal") == seal(body)
        version = body["format_version"]
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{path} is not a manifest: {error}") from error
    if not sealed:
        raise CheckpointError(f"{path} was altered: its seal does not match")
    if version > FORMAT_VERSION:
        raise NewerFormatError(
            f"{checkpoint} has format_version {version}, this llmforge reads up to "
            f"{FORMAT_VERSION}",
            remedy="install the llmforge that wrote it, or a later one",
        )
    return _decode(path, body)


def read_manifest(checkpoint: Path) -> Manifest:
    """Read the manifest of the checkpoint directory ``checkpoint``.

    Raises:
        NewerFormatError: a later version of llmforge wrote it.
        CheckpointError: it is missing, unreadable or was altered.
    """
    path = checkpoint / MANIFEST
    try:
        text = path.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    except PermissionError as error:
        raise unreadable(path, error) from error
    except OSError as error:
        raise CheckpointError(f"{path} is not a manifest: {error}") from error
    return decode_manifest(text, checkpoint)


def unreadable(path: Path, error: OSError) -> CheckpointError:
    """Return the error for a file that exists but may not be read: no damage, so no set-aside."""
    return CheckpointError(
        f"{path} cannot be read: {error.strerror}",
        remedy="make the checkpoint readable for the user who runs this command",
    )


def _decode(path: Path, body: Mapping[str, Any]) -> Manifest:
    files = {name: FileEntry(**entry) for name, entry in body["files"].items()}
    for name in files:
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts:
            raise CheckpointError(f"{path} names a file outside its checkpoint: {name}")
    frozen = FrozenWeights(**body["frozen"]) if "frozen" in body else None
    return Manifest(**{**body, "files": files, "frozen": frozen})


def seal(body: Mapping[str, Any]) -> str:
    """Return the SHA-256 of ``body`` as JSON with sorted keys and no spaces."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
