"""Files behind fsspec URLs, kept in the cache."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fsspec

from llmforge import RunContext
from llmforge.errors import DataError

_VERSION_KEYS = ("size", "ETag", "mtime", "LastModified", "md5Hash", "sha256", "created")


def is_url(path: str) -> bool:
    """Return whether ``path`` is a URL and not a path of this machine."""
    return "://" in path


def shown(url: str) -> str:
    """Return ``url`` without what may be secret: user, password and query."""
    return re.sub(r"://[^/@]*@", "://", url).partition("?")[0]


def fetch_url(url: str, *, run: RunContext) -> Path:
    """Return the local path of the file behind ``url``.

    The file is downloaded into the cache, by one rename, unless this version of it (size, ETag,
    time) is there. When the place cannot be asked, the newest copy serves, with a notice.

    Raises:
        FileNotFoundError: there is no such file, nor a copy.
        DataError: it cannot be read, and there is no copy.
    """
    home = run.cache / "datasets" / "remote" / hashlib.sha256(url.encode()).hexdigest()[:24]
    if run.offline and not url.startswith("file://"):
        return _kept(home, url, run, RuntimeError("offline mode is on"))
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
        info = filesystem.info(path)
        if info.get("type") == "directory":
            raise DataError(f"{shown(url)} is a folder, not a file")
        return _download(filesystem, path, home / _version(info))
    except ImportError as error:
        raise _missing_package(url, error) from error
    except FileNotFoundError as error:
        if home.exists():
            return _kept(home, url, run, error)
        raise
    except DataError:
        raise
    except Exception as error:  # every file system has errors of its own
        return _kept(home, url, run, error)


def glob_urls(pattern: str) -> list[str]:
    """Return the URLs of the files that ``pattern`` matches, sorted.

    Raises:
        DataError: the place cannot be asked.
    """
    try:
        filesystem, path = fsspec.core.url_to_fs(pattern)
        return sorted(filesystem.unstrip_protocol(found) for found in filesystem.glob(path))
    except ImportError as error:
        raise _missing_package(pattern, error) from error
    except Exception as error:  # every file system has errors of its own
        raise DataError(f"{shown(pattern)} cannot be listed: {_reason(error)}") from error


def _download(filesystem: Any, path: str, directory: Path) -> Path:
    target = directory / (path.rstrip("/").rpartition("/")[2] or "file")
    if target.exists():
        return target
    directory.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".part-", dir=directory)
    os.close(handle)
    partial = Path(name)
    try:
        filesystem.get_file(path, name)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def _kept(home: Path, url: str, run: RunContext, error: Exception) -> Path:
    """Return the newest copy in the cache, or raise why there is none."""
    copies = [path for path in home.glob("*/*") if not path.name.startswith(".part-")]
    if not copies:
        raise DataError(
            f"{shown(url)} cannot be read: {_reason(error)}",
            remedy="check the URL, the network and the credentials",
        ) from error
    run.notice(f"{shown(url)} cannot be read ({_reason(error)}): using the copy in the cache")
    return max(copies, key=lambda path: path.stat().st_mtime)


def _version(info: Mapping[str, Any]) -> str:
    known = {key: str(info[key]) for key in _VERSION_KEYS if info.get(key) is not None}
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]


def _missing_package(url: str, error: ImportError) -> DataError:
    scheme = url.partition("://")[0]
    extra = {"s3": "llmforge[s3]", "gs": "llmforge[gcs]", "gcs": "llmforge[gcs]"}.get(scheme)
    package = extra or f"fsspec[{scheme}]"
    return DataError(f"{shown(url)} cannot be read: {error}", remedy=f"pip install '{package}'")


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {shown(str(error))}" if str(error) else type(error).__name__
