"""What a ``storage`` component hands to the core."""

from __future__ import annotations

from typing import Any, Protocol


class Storage(Protocol):
    """A place behind a URL, reached through fsspec.

    Attributes:
        url: the root, without credentials.
        filesystem: the ``fsspec`` file system.
    """

    url: str
    filesystem: Any

    def create(self, path: str, content: bytes) -> None:
        """Write ``path`` only if nothing is there.

        Raises:
            FileExistsError: something is there already.
        """
        ...
