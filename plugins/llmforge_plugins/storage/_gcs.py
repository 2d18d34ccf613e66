"""Google Cloud Storage by gcsfs, with uploads in parts sent from the caller's thread."""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import google.auth
import google.auth.exceptions
from fsspec.asyn import sync
from gcsfs.core import GCSFileSystem, initiate_upload, upload_chunk

from llmforge import Problem
from llmforge.errors import StorageError
from llmforge.interfaces import Progress, public_url
from llmforge_plugins.storage._filesystem import CHUNK, FRESH, Filesystem, Told

if TYPE_CHECKING:
    from llmforge_plugins.storage import gcs

_SCOPE = "https://www.googleapis.com/auth/devstorage.read_write"
_TYPE = "application/octet-stream"
_LOOKED_FOR = (
    "looked for GOOGLE_APPLICATION_CREDENTIALS in the environment, for the credentials that "
    "'gcloud auth application-default login' makes, and for the machine's service account"
)


class GcsBucket(Filesystem):
    """Objects in a bucket below a prefix.

    gcsfs's plain file system is used, not the one it registers for ``gs``, which first asks over
    gRPC what kind of bucket it is and hangs for a minute where nobody answers that.
    """

    def __init__(self, url: str, options: gcs.Gcs.Options) -> None:
        self._options = options
        token, project = _credentials(options, public_url(url))
        filesystem = GCSFileSystem(
            project=project or "",
            token=token,
            access="read_write",
            endpoint_url=options.endpoint_url,
            requester_pays=options.requester_pays,
            **FRESH,
        )
        super().__init__(url, filesystem, public_url(url).partition("://")[2])
        if not self._root:
            raise StorageError(f"{self.url} names no bucket", remedy="write gs://bucket/folder")

    def put(self, source: Path, name: str, *, progress: Progress) -> None:
        """Upload ``source``, in parts if it is larger than one.

        What fails leaves no object; Google forgets the parts after a week.
        """
        size = source.stat().st_size
        if size <= self._options.part_size:
            self.write(name, source.read_bytes())
            progress(size)
            return
        filesystem = self.filesystem
        bucket, _, key = self.path(name).partition("/")
        place = sync(filesystem.loop, initiate_upload, filesystem, bucket, key, _TYPE)
        with source.open("rb") as file:
            sent = 0
            while data := file.read(self._options.part_size):
                sync(filesystem.loop, upload_chunk, filesystem, place, data, sent, size, _TYPE)
                sent += len(data)
                progress(len(data))

    def get(self, name: str, target: Path, *, progress: Progress) -> None:
        """Download ``name`` into the file ``target``."""
        told = Told(progress)
        self.filesystem.get_file(self.path(name), str(target), callback=told, concurrency=1)
        told.rest(target.stat().st_size)

    def same(self, name: str, source: Path, *, progress: Progress) -> bool | None:
        """Compare with the MD5 that Google keeps of every object not composed of others."""
        found = self.filesystem.info(self.path(name)).get("md5Hash")
        if found is None:
            return None
        digest = hashlib.md5(usedforsecurity=False)
        with source.open("rb") as file:
            while data := file.read(CHUNK):
                digest.update(data)
                progress(len(data))
        return bool(found == base64.b64encode(digest.digest()).decode())

    def remedy(self, error: Exception) -> str:
        """Say where credentials were looked for."""
        code = str(getattr(error, "code", ""))
        refused = code in ("401", "403") or str(error).startswith("Forbidden")
        if not refused and not isinstance(error, google.auth.exceptions.GoogleAuthError):
            return ""
        if _is_anonymous(self._options):
            return "storage.gcs.anonymous is set, so no credentials were sent"
        return _LOOKED_FOR

    def _make_folder(self, path: str) -> None:
        """Do nothing: there are no folders, and buckets are not made on the way."""


def credential_problems(options: gcs.Gcs.Options) -> list[Problem]:
    """Return why no credentials can be found, if so."""
    try:
        _credentials(options, "")
    except StorageError as error:
        message = error.message.removeprefix(": ")
        return [Problem(key="storage.url", message=message, remedy=error.remedy)]
    return []


def _credentials(options: gcs.Gcs.Options, url: str) -> tuple[Any, str | None]:
    """Return credentials, or ``anon``, and the project.

    Raises:
        StorageError: there are none.
    """
    if _is_anonymous(options):
        return "anon", options.project
    try:
        found, project = google.auth.default(scopes=[_SCOPE])
    except google.auth.exceptions.GoogleAuthError as error:
        reason = str(error).partition(".")[0]
        raise StorageError(
            f"{url}: no Google credentials were found: {reason}", remedy=_LOOKED_FOR
        ) from error
    return found, options.project or project


def _is_anonymous(options: gcs.Gcs.Options) -> bool:
    return options.anonymous or bool(os.environ.get("STORAGE_EMULATOR_HOST"))
