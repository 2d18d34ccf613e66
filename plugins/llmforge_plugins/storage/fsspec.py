"""The storage ``fsspec``."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

import llmforge
from llmforge import Component, hookimpl
from llmforge.interfaces import Storage


class Fsspec(Component, kind="storage"):
    """Any other scheme that fsspec knows: ``sftp://``, ``abfs://``, ``webdav://``, ….

    Whether two writers can both believe to have created the same file depends on the file system;
    the built-in ``local``, ``s3`` and ``gcs`` exclude it.
    """

    class Options(llmforge.Options):
        """Options of ``[storage.fsspec]``."""

        arguments: Annotated[dict[str, Any], Field(default_factory=dict)]
        """What the file system is made with, as its documentation names it; no secrets."""

    @hookimpl
    def forge_open_storage(self, url: str) -> Storage:
        """Open the place behind ``url``."""
        from llmforge_plugins.storage._filesystem import any_filesystem

        return any_filesystem(url, self.options.arguments)
