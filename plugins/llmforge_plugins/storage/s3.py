"""The storage ``s3``."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

import llmforge
from llmforge import Component, Problem, RunContext, hookimpl
from llmforge.interfaces import Storage

_SMALLEST_PART = 5 << 20  # S3 takes no smaller part but the last.


class S3(Component, kind="storage"):
    """Amazon S3 and what speaks its language (MinIO, R2, Ceph, …): ``s3://bucket/runs``.

    Credentials come from where AWS tools look: the environment (``AWS_ACCESS_KEY_ID``,
    ``AWS_PROFILE``, …), ``~/.aws``, or the machine's role.
    """

    requires: ClassVar[tuple[str, ...]] = ("s3fs",)
    credentials: ClassVar[tuple[str, ...]] = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")

    class Options(llmforge.Options):
        """Options of ``[storage.s3]``."""

        endpoint_url: str | None = None
        """Address of a service that is not Amazon's; absent: ``AWS_ENDPOINT_URL`` or Amazon."""
        region: str | None = None
        """Region of the bucket; absent: as the environment or the profile says."""
        profile: str | None = None
        """Profile of ``~/.aws`` to take; absent: ``AWS_PROFILE`` or the default."""
        anonymous: bool = False
        """Send no credentials: for public buckets."""
        requester_pays: bool = False
        """Pay for requests to a bucket of somebody who does not."""
        part_size: Annotated[int, Field(ge=_SMALLEST_PART)] = 8 << 20
        """Bytes sent at once; one part must arrive within ``storage.stall_seconds``."""

    @hookimpl
    def forge_open_storage(self, url: str) -> Storage:
        """Open the bucket behind ``url``; the first call asks it."""
        from llmforge_plugins.storage._s3 import S3Bucket

        return S3Bucket(url, self.options)

    @hookimpl
    def forge_preflight(self, run: RunContext) -> list[Problem]:
        """Look for credentials, without using them."""
        from llmforge_plugins.storage._s3 import credential_problems

        del run
        return credential_problems(self.options)
