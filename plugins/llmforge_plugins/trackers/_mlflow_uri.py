"""What the URI of an MLflow store says, without asking anybody."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

URI_VARIABLE = "MLFLOW_TRACKING_URI"

_LOGIN = re.compile(r"(?<=://)[^/@\s]+@")


def without_login(uri: str) -> str:
    """Return ``uri`` without user name and password."""
    return _LOGIN.sub("", uri)


def is_server(uri: str) -> bool:
    """Return whether ``uri`` is that of a server and not of a database opened from here."""
    return urlsplit(uri).scheme in ("http", "https") or uri.startswith("databricks")


def sqlite_file(uri: str) -> Path | None:
    """Return the file of an SQLite store, None for any other."""
    scheme, _, path = uri.partition(":///")
    return Path(path) if scheme.split("+")[0] == "sqlite" and path else None
