"""The backend ``single``."""

from __future__ import annotations

import llmforge
from llmforge import Component, hookimpl
from llmforge.errors import RunError
from llmforge.interfaces import Backend, RunContext


class Single(Component, kind="backend"):
    """One process on one device: CPU, CUDA or MPS."""

    class Options(llmforge.Options):
        """Options of ``[backend.single]``; device, precision and compilation are ``[train]``'s."""

    @hookimpl
    def forge_build_backend(self, run: RunContext) -> Backend:
        """Build the backend for the device and numbers that ``run.train`` asks for.

        Raises:
            RunError: the run was started as several processes.
        """
        if run.world_size > 1:
            raise RunError(
                f"backend 'single' is for one process, and there are {run.world_size}",
                remedy="--set backend.name=auto chooses one for several",
            )
        from llmforge_plugins.backends._single import SingleBackend

        return SingleBackend(run)
