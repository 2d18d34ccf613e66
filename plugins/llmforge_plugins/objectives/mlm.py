"""The objective ``mlm``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

import llmforge
from llmforge import Component, RunContext, hookimpl
from llmforge.interfaces import Objective


class MaskedLanguageModelling(Component, kind="objective"):
    """Hidden tokens are predicted from all others (Devlin et al., "BERT", 2018).

    Which are hidden differs from epoch to epoch (as in RoBERTa, 2019). Of the chosen tokens 80 %
    are hidden by the mask token and 10 % by a random one; 10 % stay as they are.
    """

    supports = frozenset({"mlm"})

    class Options(llmforge.Options):
        """Options of ``[objective.mlm]``."""

        share: Annotated[float, Field(gt=0, lt=1)] = 0.15
        """Of a text's tokens, those that are predicted; at least one is."""

    @hookimpl
    def forge_build_objective(self, run: RunContext) -> Objective:
        """Return the objective."""
        from llmforge_plugins.objectives._mlm import HiddenTokens

        del run
        return HiddenTokens(share=self.options.share)
