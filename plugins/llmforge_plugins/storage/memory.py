"""The storage ``memory``."""

from __future__ import annotations

import llmforge
from llmforge import Component, hookimpl
from llmforge.interfaces import Storage


class Memory(Component, kind="storage"):
    """The memory of one process, ``memory://name``: for tests, gone with the process."""

    class Options(llmforge.Options):
        """No options."""

    @hookimpl
    def forge_open_storage(self, url: str) -> Storage:
        """Open the place behind ``url``."""
        from llmforge_plugins.storage._memory import Memory as Place

        return Place(url)
