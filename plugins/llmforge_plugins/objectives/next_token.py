"""The objective ``next_token``."""

from __future__ import annotations

from llmforge import Component, RunContext, hookimpl
from llmforge.interfaces import Objective


class NextToken(Component, kind="objective"):
    """Every token is predicted from those before it; of conversations the answers are."""

    supports = frozenset({"next_token"})

    @hookimpl
    def forge_build_objective(self, run: RunContext) -> Objective:
        """Return the core's own."""
        del run
        return Objective()
