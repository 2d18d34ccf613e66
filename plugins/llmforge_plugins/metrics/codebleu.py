"""``codebleu``: how close generated code is to the reference, by codebleu."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Literal

import llmforge
from llmforge import SAFE, Component, Problem, hookimpl, install_command

if TYPE_CHECKING:
    from llmforge.interfaces import Metric


class CodeBleu(Component, kind="metric"):
    """CodeBLEU of the corpus, from 0 to 1, as the package codebleu computes it.

    The mean of BLEU, of BLEU in which keywords weigh more, and of how much of the reference's
    syntax tree and of its data flow is found again. Ren et al., "CodeBLEU: a Method for Automatic
    Evaluation of Code Synthesis", 2020.
    """

    requires = ("codebleu",)

    class Options(llmforge.Options):
        """Options of ``[metric.codebleu]``."""

        language: Annotated[Literal["python", "java", "javascript", "go"], SAFE] = "python"
        """Language of the code; each needs its grammar, such as ``tree-sitter-java``."""

    def missing_packages(self) -> list[Problem]:
        """Return a problem for the package, and for the grammar of the language."""
        found = super().missing_packages()
        grammar = f"tree_sitter_{self.options.language}"
        if find_spec(grammar) is None:
            found.append(
                Problem(
                    key="metric.codebleu.language",
                    message=f"code in {self.options.language} needs the {grammar} package",
                    remedy=install_command(grammar),
                )
            )
        return found

    @hookimpl
    def forge_build_metric(self) -> Metric:
        """Build the metric."""
        from llmforge_plugins.metrics._codebleu import CorpusCodeBleu

        return CorpusCodeBleu(self.options)
