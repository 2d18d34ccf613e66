"""The backend ``auto``."""

from __future__ import annotations

import llmforge
from llmforge import Component, hookimpl
from llmforge.errors import Problem
from llmforge.interfaces import Backend, RunContext
from llmforge_plugins.backends._needs import machine_problems


class Auto(Component, kind="backend"):
    """The backend that fits how the run was started: ``single`` for one process.

    For several it is ``ddp``, or ``fsdp`` where the model does not fit on a GPU whole.
    """

    class Options(llmforge.Options):
        """Options of ``[backend.auto]``: none."""

    @hookimpl
    def forge_preflight(self, run: RunContext) -> list[Problem]:
        """Refuse a device or precision that is not there."""
        return machine_problems(run)

    @hookimpl
    def forge_build_backend(self, run: RunContext) -> Backend:
        """Build the backend for ``run.world_size`` processes."""
        from llmforge_plugins.backends._single import SingleBackend

        if run.world_size == 1:
            return SingleBackend(run)
        from llmforge_plugins.backends._auto import AutoBackend

        return AutoBackend(run)
