"""What a ``storage`` component hands to the core."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

Progress = Callable[[int], None]
"""Told the bytes moved since it was last told. It may wait, and it may raise to stop the call."""

_USER = re.compile(r"(?<=://)[^/\s@]*@")


def public_url(url: str) -> str:
    """Return ``url`` without what may be secret: user, password and query; no slash at its end."""
    scheme, separator, rest = _USER.sub("", url).partition("?")[0].partition("://")
    return f"{scheme}{separator}{rest.rstrip('/')}"


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

    def same(self, name: str, source: Path, *, progress: Progress) -> bool | None:
        """Compare ``name`` with a local file by the checksum that the service keeps.

        None when the service has none that can be computed here, or one that proves nothing; the
        core then asks for :meth:`sha256`.

        Raises:
            FileNotFoundError: nothing is there.
        """
        ...

    def sha256(self, name: str, *, progress: Progress) -> str:
        """Read ``name`` back and return the SHA-256 of what came, in hex.

        Raises:
            FileNotFoundError: nothing is there.
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

    def remedy(self, error: Exception) -> str:
        """Return what the user can do about ``error``, which a call raised; "" when unknown.

        For a refused login it says which credential was looked for, never its value.
        """
        ...
