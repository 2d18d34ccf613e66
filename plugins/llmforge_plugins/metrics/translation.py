"""``bleu`` and ``chrf``: the scores of machine translation, by sacrebleu."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

import llmforge
from llmforge import SAFE, Component, hookimpl

if TYPE_CHECKING:
    from llmforge.interfaces import Metric


class Bleu(Component, kind="metric"):
    """BLEU of the corpus, from 0 to 100, as sacrebleu computes it.

    Papineni et al., "BLEU: a Method for Automatic Evaluation of Machine Translation", 2002; Post,
    "A Call for Clarity in Reporting BLEU Scores", 2018.
    """

    requires = ("sacrebleu",)

    class Options(llmforge.Options):
        """Options of ``[metric.bleu]``."""

        tokenize: Annotated[Literal["13a", "intl", "char", "zh", "none"], SAFE] = "13a"
        """How texts become words: ``13a`` for Western languages, ``intl`` by Unicode categories,
        ``char``, ``zh``, or ``none`` where white space separates them already."""
        lowercase: Annotated[bool, SAFE] = False
        """Whether case does not count."""
        max_order: Annotated[int, SAFE, Field(gt=0)] = 4
        """Longest n-grams of words that are counted."""

    @hookimpl
    def forge_build_metric(self) -> Metric:
        """Build the metric."""
        from llmforge_plugins.metrics._translation import CorpusBleu

        return CorpusBleu(self.options)


class Chrf(Component, kind="metric"):
    """chrF of the corpus, from 0 to 100, as sacrebleu computes it: n-grams of characters.

    Popović, "chrF: character n-gram F-score for automatic MT evaluation", 2015. It suits any
    language, and short answers better than BLEU.
    """

    requires = ("sacrebleu",)

    class Options(llmforge.Options):
        """Options of ``[metric.chrf]``."""

        char_order: Annotated[int, SAFE, Field(gt=0)] = 6
        """Longest n-grams of characters that are counted."""
        word_order: Annotated[int, SAFE, Field(ge=0)] = 0
        """Longest n-grams of words that are counted too; 2 makes it chrF++."""
        beta: Annotated[int, SAFE, Field(gt=0)] = 2
        """How many times as much recall counts as precision."""
        lowercase: Annotated[bool, SAFE] = False
        """Whether case does not count."""

    @hookimpl
    def forge_build_metric(self) -> Metric:
        """Build the metric."""
        from llmforge_plugins.metrics._translation import CorpusChrf

        return CorpusChrf(self.options)
