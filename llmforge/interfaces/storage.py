"""What a ``storage`` component hands to the core."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

Progress = Callable[[int], None]
"""Told the bytes moved since it was last told."""


class Storage(Protocol):
    """A place behind a URL, reached through fsspec.

    Names are relative to ``url``, with ``/`` between their parts. Nothing is cached: every call
    sees what is there now. A call may hang or raise anything; the core puts a deadline around it
    and retries. Whoever needs two calls at once opens the place twice.

    Attributes:
        url: the root, without credentials and without a slash at its end.
        filesystem: the synchronous ``fsspec`` file system, its instance not shared.
    """

    url: str
    filesystem: Any

    def create(self, name: str, content: bytes) -> None:
        """Write ``name`` only if nothing is there, decided by the service and not by looking first.

        Raises:
            FileExistsError: something is there already.
        """
        ...

    def write(self, name: str, content: bytes) -> None:
        """Write or replace ``name``, whole or not at all."""
        ...

    def read(self, name: str) -> bytes:
        """Return the content of ``name``.

        Raises:
            FileNotFoundError: nothing is there.
        """
        ...

    def put(self, source: Path, name: str, *, progress: Progress) -> None:
        """Upload the finished file ``source``, whole or not at all, in parts where it is large."""
        ...

    def get(self, name: str, target: Path, *, progress: Progress) -> None:
        """Download ``name`` into the file ``target``.

        Raises:
            FileNotFoundError: nothing is there.
        """
        ...

    def size(self, name: str) -> int | None:
        """Return the bytes of ``name``, None when nothing is there."""
        ...

    def same(self, name: str, source: Path) -> bool | None:
        """Compare ``name`` with a local file by the service's own checksum.

        None when the service has no checksum that can be computed here; the core then reads the
        object back.
        """
        ...

    def names(self, below: str) -> list[str]:
        """Return every name under the folder ``below``, relative to ``url``; empty when none."""
        ...

    def folders(self, below: str) -> list[str]:
        """Return the names of the folders directly in ``below``, without their path."""
        ...

    def delete(self, name: str) -> None:
        """Delete ``name`` and everything under it; nothing there is no error."""
        ...
