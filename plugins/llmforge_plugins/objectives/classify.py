"""The objective ``classify``."""

from __future__ import annotations

from llmforge import Component, RunContext, hookimpl
from llmforge.interfaces import Objective


class Classify(Component, kind="objective"):
    """The label of a text, or of two, is predicted from all of it (as in BERT, 2018)."""

    supports = frozenset({"classify"})

    @hookimpl
    def forge_build_objective(self, run: RunContext) -> Objective:
        """Return the objective."""
        from llmforge_plugins.objectives._classify import LabelOfText

        del run
        return LabelOfText()
