"""S3 by s3fs, with uploads in parts that are sent one after the other from the caller's thread.

s3fs's own uploads report progress from its event loop, where a bandwidth limit would hold up every
other transfer of the process.
"""

from __future__ import annotations

import contextlib
import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import botocore.exceptions
import botocore.loaders
import botocore.session
from aiobotocore.session import AioSession
from s3fs import S3FileSystem

from llmforge import Problem
from llmforge.errors import StorageError
from llmforge.interfaces import Progress, public_url
from llmforge_plugins.storage._filesystem import FRESH, Filesystem, Told

if TYPE_CHECKING:
    from llmforge_plugins.storage import s3

_MOST_PARTS = 10_000
_MEBIBYTE = 1 << 20


class S3Bucket(Filesystem):
    """Objects in a bucket below a prefix."""

    def __init__(self, url: str, options: s3.S3.Options) -> None:
        session = AioSession(profile=options.profile)
        session.register_component("data_loader", _service_descriptions())
        filesystem = S3FileSystem(
            anon=options.anonymous,
            endpoint_url=options.endpoint_url,
            requester_pays=options.requester_pays,
            client_kwargs={"region_name": options.region} if options.region else {},
            config_kwargs={
                "retries": {"total_max_attempts": 1},
                # The core verifies what arrived; services other than Amazon's often lack these.
                "request_checksum_calculation": "when_required",
                "response_checksum_validation": "when_required",
            },
            session=session,
            **FRESH,
        )
        # Tries within tries would look like a stall: the core tries again, with pauses of its own.
        filesystem.retries = 1
        super().__init__(url, filesystem, public_url(url).partition("://")[2])
        if not self._root:
            raise StorageError(f"{self.url} names no bucket", remedy="write s3://bucket/folder")
        self._options = options

    def create(self, name: str, content: bytes) -> None:
        """Write ``name`` only if nothing is there: ``If-None-Match: *``."""
        try:
            self._call("put_object", name, Body=content, IfNoneMatch="*")
        except OSError as error:
            if _code(error) == "PreconditionFailed":  # not every service names the condition
                raise FileExistsError(self.path(name)) from error
            raise

    def read(self, name: str) -> bytes:
        """Return the content of ``name``."""
        try:
            return super().read(name)
        except FileNotFoundError as error:
            self._check_root(error)
            raise

    def write(self, name: str, content: bytes) -> None:
        """Write or replace ``name``."""
        self._call("put_object", name, Body=content)

    def put(self, source: Path, name: str, *, progress: Progress) -> None:
        """Upload ``source``, in parts if it is larger than one; what fails leaves nothing."""
        size = source.stat().st_size
        part = part_size(size, self._options.part_size)
        with source.open("rb") as file:
            if size <= part:
                self._call("put_object", name, Body=file.read())
                progress(size)
                return
            upload = self._call("create_multipart_upload", name)["UploadId"]
            try:
                parts: list[dict[str, Any]] = []
                while data := file.read(part):
                    number = len(parts) + 1
                    sent = self._call(
                        "upload_part", name, UploadId=upload, PartNumber=number, Body=data
                    )
                    parts.append({"PartNumber": number, "ETag": sent["ETag"]})
                    progress(len(data))
                self._call(
                    "complete_multipart_upload",
                    name,
                    UploadId=upload,
                    MultipartUpload={"Parts": parts},
                )
            except BaseException:
                # Of a service that is gone, a lifecycle rule of the bucket clears what was sent.
                with contextlib.suppress(Exception):
                    self._call("abort_multipart_upload", name, UploadId=upload)
                raise

    def get(self, name: str, target: Path, *, progress: Progress) -> None:
        """Download ``name`` into the file ``target``."""
        told = Told(progress)
        self.filesystem.get_file(self.path(name), str(target), callback=told, max_concurrency=1)
        told.rest(target.stat().st_size)

    def same(self, name: str, source: Path, *, progress: Progress) -> bool | None:
        """Compare with the ETag, which is made of MD5 sums unless the bucket encrypts by key."""
        found = str(self._call("head_object", name)["ETag"]).strip('"')
        part = part_size(source.stat().st_size, self._options.part_size)
        return True if found == etag(source, part, progress) else None

    def remedy(self, error: Exception) -> str:
        """Say where credentials were looked for, or what the bucket lacks."""
        if isinstance(error, PermissionError | botocore.exceptions.NoCredentialsError):
            return _looked_for(self._options)
        if _code(error) == "NoSuchBucket":
            return "create it, or correct storage.url"
        if isinstance(error, botocore.exceptions.EndpointConnectionError):
            return "check the network, and storage.s3.endpoint_url if the service is not Amazon's"
        return ""

    def _bucket(self, name: str) -> str:
        return self.path(name).partition("/")[0]

    def _call(self, method: str, name: str, **arguments: Any) -> Any:
        bucket, _, key = self.path(name).partition("/")
        return self.filesystem.call_s3(method, Bucket=bucket, Key=key, **arguments)

    def _make_folder(self, path: str) -> None:
        """Do nothing: there are no folders, and buckets are not made on the way."""

    def _check_root(self, error: FileNotFoundError) -> None:
        if _code(error) == "NoSuchBucket":
            raise StorageError(
                f"{self.url}: there is no bucket {self._bucket('')}",
                remedy="create it, or correct storage.url",
            ) from error.__cause__


@cache
def _service_descriptions() -> Any:
    """Return botocore's reader of its large JSON files, which keeps what it has read."""
    return botocore.loaders.create_loader()


def credential_problems(options: s3.S3.Options) -> list[Problem]:
    """Return why no credentials can be found, if so."""
    if options.anonymous:
        return []
    reason = "no AWS credentials were found"
    try:
        if botocore.session.Session(profile=options.profile).get_credentials() is not None:
            return []
    except botocore.exceptions.BotoCoreError as error:
        reason = f"AWS credentials cannot be read: {error}"
    return [Problem(key="storage.url", message=reason, remedy=_looked_for(options))]


def part_size(size: int, wished: int) -> int:
    """Return the bytes of each part of a file of ``size`` bytes, as few more as S3 demands."""
    least = -(-size // _MOST_PARTS)
    return max(wished, -(-least // _MEBIBYTE) * _MEBIBYTE)


def etag(source: Path, part: int, progress: Progress) -> str:
    """Return the ETag that S3 gives ``source`` when it is uploaded in parts of ``part`` bytes."""
    digests = []
    with source.open("rb") as file:
        while data := file.read(part):
            digests.append(hashlib.md5(data, usedforsecurity=False).digest())
            progress(len(data))
    if len(digests) > 1:
        joined = hashlib.md5(b"".join(digests), usedforsecurity=False).hexdigest()
        return f"{joined}-{len(digests)}"
    return digests[0].hex() if digests else hashlib.md5(usedforsecurity=False).hexdigest()


def _code(error: BaseException | None) -> str:
    """Return S3's own name of an error, which s3fs keeps as the cause."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
        error = error.__cause__
    return ""


def _looked_for(options: s3.S3.Options) -> str:
    if options.anonymous:
        return "storage.s3.anonymous is set, so no credentials were sent"
    profile = f"profile '{options.profile}'" if options.profile else "AWS_PROFILE or the default"
    return (
        "looked for AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, for "
        f"{profile} in ~/.aws/credentials and ~/.aws/config, and for the machine's role"
    )
