"""The storage ``gcs``."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

import llmforge
from llmforge import Component, Problem, RunContext, hookimpl
from llmforge.interfaces import Storage

_PART_UNIT = 256 << 10  # GCS takes parts of a multiple of this.


class Gcs(Component, kind="storage"):
    """Google Cloud Storage: ``gs://bucket/runs``.

    Credentials are Google's application default credentials: ``GOOGLE_APPLICATION_CREDENTIALS``,
    what ``gcloud auth application-default login`` left, or the machine's service account.
    """

    requires: ClassVar[tuple[str, ...]] = ("gcsfs",)
    credentials: ClassVar[tuple[str, ...]] = ("GOOGLE_APPLICATION_CREDENTIALS",)

    class Options(llmforge.Options):
        """Options of ``[storage.gcs]``."""

        project: str | None = None
        """Project that pays; absent: the credentials' own."""
        endpoint_url: str | None = None
        """Address of an emulator; absent: ``STORAGE_EMULATOR_HOST`` or Google."""
        anonymous: bool = False
        """Send no credentials: for public buckets and emulators."""
        requester_pays: bool = False
        """Pay for requests to a bucket of somebody who does not."""
        part_size: Annotated[int, Field(ge=_PART_UNIT, multiple_of=_PART_UNIT)] = 8 << 20
        """Bytes sent at once; one part must arrive within ``storage.stall_seconds``."""

    @hookimpl
    def forge_open_storage(self, url: str) -> Storage:
        """Open the bucket behind ``url``; the first call asks it."""
        from llmforge_plugins.storage._gcs import GcsBucket

        return GcsBucket(url, self.options)

    @hookimpl
    def forge_preflight(self, run: RunContext) -> list[Problem]:
        """Look for credentials, without using them."""
        from llmforge_plugins.storage._gcs import credential_problems

        del run
        return credential_problems(self.options)
