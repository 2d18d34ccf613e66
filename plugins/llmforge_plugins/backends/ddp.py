"""The backend ``ddp``."""

from __future__ import annotations

import llmforge
from llmforge import Component, hookimpl
from llmforge.errors import Problem
from llmforge.interfaces import Backend, RunContext
from llmforge_plugins.backends._needs import machine_problems


class Ddp(Component, kind="backend"):
    """Several processes, each with the whole model and a share of every batch."""

    class Options(llmforge.Options):
        """Options of ``[backend.ddp]``: none; device and precision are ``[train]``'s."""

    @hookimpl
    def forge_preflight(self, run: RunContext) -> list[Problem]:
        """Refuse a device or precision that is not there."""
        return machine_problems(run)

    @hookimpl
    def forge_build_backend(self, run: RunContext) -> Backend:
        """Build the backend of this process, one of ``run.world_size``."""
        from llmforge_plugins.backends._ddp import ddp_or_single

        return ddp_or_single(run)
