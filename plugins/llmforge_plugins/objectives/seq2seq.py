"""The objective ``seq2seq``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

import llmforge
from llmforge import Component, RunContext, hookimpl
from llmforge.interfaces import Objective


class Seq2Seq(Component, kind="objective"):
    """A target text is predicted from a source text, as T5 does (Raffel et al. 2020).

    Of a conversation the last answer is the target, and what was said before is the source.
    """

    supports = frozenset({"seq2seq"})

    class Options(llmforge.Options):
        """Options of ``[objective.seq2seq]``."""

        prefix: str = ""
        """Put before every source: ``"summarize: "`` says to T5 what to do."""
        target_context: Annotated[int, Field(gt=0)] | None = None
        """Longest target in tokens; as long as a source may be when absent."""

    @hookimpl
    def forge_build_objective(self, run: RunContext) -> Objective:
        """Return the objective."""
        from llmforge_plugins.objectives._seq2seq import SourceToTarget

        return SourceToTarget(
            prefix=self.options.prefix, target_context=self.options.target_context or run.context
        )
