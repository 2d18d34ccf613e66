"""``COMMIT.json``: what makes a checkpoint in storage exist, and what it consists of."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from llmforge.checkpoint.hashed_files import FileEntry
from llmforge.checkpoint.manifest import MANIFEST, seal
from llmforge.errors import StorageError
from llmforge.remote.layout import is_safe, is_token

FORMAT_VERSION = 1
_TELLS_ONLY = frozenset({MANIFEST, "metadata.json"})
"""Files of a checkpoint that tell people about it: they differ where the state does not."""


@dataclass(frozen=True, kw_only=True)
class Commit:
    """A checkpoint that is complete in storage.

    Attributes:
        token: the folder of the upload that wrote it.
        step: optimizer steps taken.
        archive: ``none``, ``tar.gz`` or ``tar.zst``.
        files: every file of the checkpoint, its manifest included.
        objects: everything below the token's folder: the files or their archive, and ``run/…``.
        is_best: whether its evaluation was the best so far.
        recipe_hash: identity of the recipe that was trained.
        created: time of the commit in UTC, ISO 8601.
    """

    token: str
    step: int
    archive: str
    files: Mapping[str, FileEntry]
    objects: Mapping[str, FileEntry]
    is_best: bool
    recipe_hash: str
    created: str
    format_version: int = FORMAT_VERSION

    @property
    def size(self) -> int:
        """Bytes in storage."""
        return sum(entry.size for entry in self.objects.values())

    def same_checkpoint(self, other: Commit) -> bool:
        """Return whether both hold the same state, written at whatever time."""
        return (self.step, self.recipe_hash, _state(self.files)) == (
            other.step,
            other.recipe_hash,
            _state(other.files),
        )


def new_token() -> str:
    """Return a name for the folder of one upload that no other upload has."""
    return secrets.token_hex(8)


def encode_commit(commit: Commit) -> bytes:
    """Return ``commit`` as sealed JSON."""
    body = asdict(commit)
    return (json.dumps({**body, "seal": seal(body)}, indent=1) + "\n").encode()


def decode_commit(content: bytes, *, where: str) -> Commit:
    """Return the commit that :func:`encode_commit` wrote.

    Args:
        content: the JSON.
        where: its address, for messages.

    Raises:
        StorageError: it is damaged, of a newer format, or names files outside its folder.
    """
    try:
        body: dict[str, Any] = json.loads(content)
        sealed = body.pop("seal") == seal(body)
        version = int(body["format_version"])
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        raise StorageError(f"{where} is not the COMMIT of a checkpoint: {error}") from error
    if not sealed:
        raise StorageError(f"{where} was altered: its seal does not match")
    if version > FORMAT_VERSION:
        raise StorageError(
            f"{where} has format_version {version}, this llmforge reads up to {FORMAT_VERSION}",
            remedy="install the llmforge that wrote it, or a later one",
        )
    for key in ("files", "objects"):
        body[key] = {name: FileEntry(**entry) for name, entry in body[key].items()}
    commit = Commit(**body)
    unsafe = [name for name in (*commit.files, *commit.objects) if not is_safe(name)]
    if unsafe or not is_token(commit.token):
        found = unsafe[0] if unsafe else commit.token
        raise StorageError(f"{where} names a file outside its checkpoint: {found}")
    return commit


def _state(files: Mapping[str, FileEntry]) -> dict[str, FileEntry]:
    return {name: entry for name, entry in files.items() if name not in _TELLS_ONLY}
