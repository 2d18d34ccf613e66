"""The backend ``single``."""

from __future__ import annotations

import llmforge
from llmforge import Component, hookimpl
from llmforge.interfaces import Backend, RunContext


class Single(Component, kind="backend"):
    """One process on one device: CPU, CUDA or MPS."""

    class Options(llmforge.Options):
        """Options of ``[backend.single]``; device, precision and compilation are ``[train]``'s."""

    @hookimpl
    def forge_build_backend(self, run: RunContext) -> Backend:
        """Build the backend for the device and numbers that ``run.train`` asks for."""
        from llmforge_plugins.backends._single import SingleBackend

        return SingleBackend(run)
