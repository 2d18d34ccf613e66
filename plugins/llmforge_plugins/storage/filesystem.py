"""The storage ``local``."""

from __future__ import annotations

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
