"""The backend ``auto``."""

from __future__ import annotations

import llmforge
from llmforge import Component, hookimpl
from llmforge.errors import RunError
from llmforge.interfaces import Backend, RunContext


class Auto(Component, kind="backend"):
    """The backend that fits how the run was started: ``single`` for one process."""

    class Options(llmforge.Options):
        """Options of ``[backend.auto]``: none."""

    @hookimpl
    def forge_build_backend(self, run: RunContext) -> Backend:
        """Build the backend for ``run.world_size`` processes.

        Raises:
            RunError: the run was started as several processes, which no built-in backend serves.
        """
        if run.world_size != 1:
            raise RunError(
                f"backend 'auto' found {run.world_size} processes, but can serve only one",
                remedy="start a single process, or name a distributed backend",
            )
        from llmforge_plugins.backends._single import SingleBackend

        return SingleBackend(run)
