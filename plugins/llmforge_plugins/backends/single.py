"""The backend ``single``."""

from __future__ import annotations

import llmforge
from llmforge import Component, hookimpl
from llmforge.errors import Problem
from llmforge.interfaces import Backend, RunContext
from llmforge_plugins.backends._needs import machine_problems


class Single(Component, kind="backend"):
    """One process on one device: CPU, CUDA or MPS."""

    class Options(llmforge.Options):
        """Options of ``[backend.single]``; device, precision and compilation are ``[train]``'s."""

    @hookimpl
    def forge_preflight(self, run: RunContext) -> list[Problem]:
        """Refuse several processes, and a device or precision that is not there."""
        if run.world_size > 1:
            return [
                Problem(
                    key="backend.name",
                    message=f"'single' is for one process, and there are {run.world_size}",
                    remedy='set it to "auto", which chooses a backend for several',
                )
            ]
        return machine_problems(run)

    @hookimpl
    def forge_build_backend(self, run: RunContext) -> Backend:
        """Build the backend for the device and numbers that ``run.train`` asks for."""
        from llmforge_plugins.backends._single import SingleBackend

        return SingleBackend(run)
