"""Files behind fsspec URLs, kept in the cache."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import fsspec

from llmforge import RunContext, install_command, track
from llmforge.errors import DataError
from llmforge_plugins.data._files import written_whole
from llmforge_plugins.data._parallel import in_parallel

log = logging.getLogger("llmforge.data")

AT_ONCE = 8
STALL_SECONDS = 60.0
_TELL_SECONDS = 10.0
_BLOCK = 1 << 20
_VERSION_KEYS = ("size", "ETag", "mtime", "LastModified", "md5Hash", "sha256", "created")
_CREDENTIALS = {
    "s3": "the AWS environment variables, a profile of ~/.aws (AWS_PROFILE), the instance's role",
    "gs": "application default credentials (GOOGLE_APPLICATION_CREDENTIALS or gcloud auth)",
    "gcs": "application default credentials (GOOGLE_APPLICATION_CREDENTIALS or gcloud auth)",
}


def is_url(path: str) -> bool:
    """Return whether ``path`` is a URL and not a path of this machine."""
    return "://" in path


def shown(url: str) -> str:
    """Return ``url`` without what may be secret: user, password and query."""
    return re.sub(r"://[^/@]*@", "://", url).partition("?")[0]


def fetch_url(
    url: str, *, run: RunContext, expected: Callable[[int], None] = lambda _: None
) -> Path:
    """Return the local path of the file behind ``url``; ``expected`` is given its size.

    The file is downloaded into the cache, by one rename once its size and, where the service tells
    it, its MD5 are right, unless this version of it (size, ETag, time) is there. When the place
    cannot be asked, the newest copy serves, with a notice.

    Raises:
        FileNotFoundError: there is no such file, nor a copy.
        DataError: it cannot be read, and there is no copy.
    """
    home = _home(url, run)
    if run.offline and not url.startswith("file://"):
        return _kept(home, url, run, RuntimeError("offline mode is on"))
    try:
        filesystem, path = _open(url)
        info = filesystem.info(path)
        if info.get("type") == "directory":
            raise DataError(
                f"{shown(url)} is a folder, not a file", remedy="end it with / to take its files"
            )
        expected(info.get("size") or 0)
        return _download(filesystem, path, home / _version(info), info)
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


def fetch_urls(urls: Sequence[str], *, run: RunContext) -> list[Path]:
    """Return the local paths of the files behind ``urls``, several downloaded at once.

    Raises:
        DataError: one is not there or cannot be read, or nothing has arrived for
            ``STALL_SECONDS``.
    """
    began = told = moved = time.monotonic()
    before = -1
    sizes: list[int] = []

    def watch(done: int) -> None:
        nonlocal told, moved, before
        arrived = sum(_arrived(_home(url, run)) for url in urls)
        task.done = arrived
        if sizes:  # those of the files whose turn has not come are like the others
            task.total = sum(sizes) / len(sizes) * len(urls)
        now = time.monotonic()
        if arrived != before:
            before, moved = arrived, now
        if now - moved > STALL_SECONDS:
            raise DataError(
                f"nothing has arrived from {shown(urls[0])} and its like for "
                f"{STALL_SECONDS:.0f} s ({done} of {len(urls)} files are there)",
                remedy="what has arrived is kept; try again when the network is back",
            )
        if now - told > _TELL_SECONDS:
            told = now
            rate = arrived / (now - began) / 1e6
            log.info("%d of %d files fetched, %.1f MB/s", done, len(urls), rate)

    def fetch(url: str) -> Path:
        try:
            return fetch_url(url, run=run, expected=sizes.append)
        except FileNotFoundError as error:
            raise DataError(f"no file matches '{shown(url)}'", remedy="check the URL") from error

    with track("fetching files") as task:
        return in_parallel(fetch, urls, threads=AT_ONCE, waiting=watch)


def glob_urls(pattern: str, *, run: RunContext) -> list[str]:
    """Return the URLs of the files that ``pattern`` matches, sorted.

    When the place cannot be asked, what it had the last time serves, with a notice.

    Raises:
        DataError: the place cannot be asked, and never was.
    """
    record = _home(pattern, run) / "listing.json"
    began = time.monotonic()

    def watch(done: int) -> None:
        del done
        if time.monotonic() - began > STALL_SECONDS:
            raise TimeoutError(f"no answer within {STALL_SECONDS:.0f} s")

    if run.offline and not pattern.startswith("file://"):
        return _kept_listing(record, pattern, run, RuntimeError("offline mode is on"))
    try:
        (found,) = in_parallel(_listed, [pattern], threads=1, waiting=watch)
    except ImportError as error:
        raise _missing_package(pattern, error) from error
    except Exception as error:  # every file system has errors of its own
        return _kept_listing(record, pattern, run, error)
    with written_whole(record) as partial:
        partial.write_text(json.dumps(found), encoding="utf-8")
    return found


def _listed(pattern: str) -> list[str]:
    filesystem, path = _open(pattern)
    details = filesystem.glob(path, detail=True)
    files = [name for name, info in details.items() if info.get("type") != "directory"]
    return sorted(filesystem.unstrip_protocol(name) for name in files)


def _open(url: str) -> tuple[Any, str]:
    """Return the file system behind ``url``, remembering nothing of it, and the path in it."""
    if url.partition("://")[0] in ("gs", "gcs"):
        # The class that gcsfs registers first asks over gRPC what kind of bucket it is, and hangs
        # for a minute where nobody answers that.
        from gcsfs.core import GCSFileSystem

        emulated = {"token": "anon"} if os.environ.get("STORAGE_EMULATOR_HOST") else {}
        filesystem, path = GCSFileSystem(**emulated), GCSFileSystem._strip_protocol(url)
    else:
        filesystem, path = fsspec.core.url_to_fs(url)
    filesystem.invalidate_cache()
    return filesystem, path


def _home(url: str, run: RunContext) -> Path:
    return run.cache / "datasets" / "remote" / hashlib.sha256(url.encode()).hexdigest()[:24]


def _arrived(home: Path) -> int:
    """Return the bytes of a file that have arrived so far, its older versions included."""
    size = 0
    for path in home.glob("*/*"):
        with contextlib.suppress(FileNotFoundError):  # renamed since it was seen
            size += path.stat().st_size
    return size


def _download(filesystem: Any, path: str, directory: Path, info: Mapping[str, Any]) -> Path:
    target = directory / (path.rstrip("/").rpartition("/")[2] or "file")
    if target.exists():
        return target
    with written_whole(target) as partial:
        filesystem.get_file(path, str(partial))
        _verify(partial, info)
    return target


def _verify(file: Path, info: Mapping[str, Any]) -> None:
    """Compare what arrived with what the service says of it.

    Raises:
        OSError: it is something else.
    """
    size, expected = file.stat().st_size, info.get("size")
    if isinstance(expected, int) and size != expected:
        raise OSError(f"{size} of {expected} bytes arrived")
    if md5 := info.get("md5Hash"):  # Google's; an ETag of S3 need not be one
        digest = hashlib.md5(usedforsecurity=False)
        with file.open("rb") as content:
            while block := content.read(_BLOCK):
                digest.update(block)
        if base64.b64encode(digest.digest()).decode() != md5:
            raise OSError("what arrived differs from what the service has")


def _kept(home: Path, url: str, run: RunContext, error: Exception) -> Path:
    """Return the newest copy in the cache, or raise why there is none."""
    copies = [path for path in home.glob("*/*") if not path.name.startswith(".part-")]
    if not copies:
        raise _unreadable(url, error) from error
    run.notice(f"{shown(url)} cannot be read ({_reason(error)}): using the copy in the cache")
    return max(copies, key=lambda path: path.stat().st_mtime)


def _kept_listing(record: Path, pattern: str, run: RunContext, error: Exception) -> list[str]:
    """Return what the place had the last time it was asked, or raise why that is not known."""
    try:
        found: list[str] = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise _unreadable(pattern, error, "listed") from error
    run.notice(f"{shown(pattern)} cannot be listed ({_reason(error)}): using what it had last time")
    return found


def _version(info: Mapping[str, Any]) -> str:
    known = {key: str(info[key]) for key in _VERSION_KEYS if info.get(key) is not None}
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]


def _unreadable(url: str, error: Exception, verb: str = "read") -> DataError:
    looked = _CREDENTIALS.get(url.partition("://")[0])
    remedy = "check the URL, the network and the credentials"
    return DataError(
        f"{shown(url)} cannot be {verb}: {_reason(error)}",
        remedy=f"{remedy}: looked for in {looked}" if looked else remedy,
    )


def _missing_package(url: str, error: ImportError) -> DataError:
    scheme = url.partition("://")[0]
    module = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}.get(scheme)
    remedy = install_command(module) if module else f"pip install 'fsspec[{scheme}]'"
    return DataError(f"{shown(url)} cannot be read: {error}", remedy=remedy)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {shown(str(error))}" if str(error) else type(error).__name__
