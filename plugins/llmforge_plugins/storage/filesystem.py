"""The storages ``local``, ``memory`` and ``fsspec``: a file system that fsspec opens by itself."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

import llmforge
from llmforge import Component, hookimpl
from llmforge.interfaces import Storage


class Local(Component, kind="storage"):
    """A folder of this machine or of a mounted disk: ``file:///mnt/runs``."""

    class Options(llmforge.Options):
        """No options."""

    @hookimpl
    def forge_open_storage(self, url: str) -> Storage:
        """Open the place behind ``url``."""
        from llmforge_plugins.storage._local import Local as Place

        return Place(url)


class Memory(Component, kind="storage"):
    """The memory of one process, ``memory://name``: for tests, gone with the process."""

    class Options(llmforge.Options):
        """No options."""

    @hookimpl
    def forge_open_storage(self, url: str) -> Storage:
        """Open the place behind ``url``."""
        from llmforge_plugins.storage._memory import Memory as Place

        return Place(url)


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
