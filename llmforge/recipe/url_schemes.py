"""Which storage component a URL belongs to."""

from __future__ import annotations

from collections.abc import Collection

_COMPONENTS = {"file": "local", "gs": "gcs"}
_ANY = "fsspec"


def storage_component(url: str, listed: Collection[str]) -> str:
    """Return the name of the storage component for ``url``.

    The scheme's own component if there is one among those ``listed``, else ``fsspec``, which
    takes every scheme that fsspec knows.
    """
    scheme = url.partition("://")[0].lower()
    name = _COMPONENTS.get(scheme, scheme)
    return name if name in listed else _ANY
