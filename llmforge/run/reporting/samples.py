"""Sampling a few texts while and after training, into ``samples.jsonl`` and to the trackers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pluggy

from llmforge.data.prompts import PromptLayout, prompt_request
from llmforge.events import Event, SamplesGenerated
from llmforge.interfaces import (
    Completion,
    Engine,
    Generator,
    LanguageModel,
    RunContext,
    Tokenizer,
)
from llmforge.plugins import call_factory
from llmforge.recipe import Recipe
from llmforge.run.reporting.metrics_files import cut_rows
from llmforge.run.signals import StopSignals
from llmforge.rundir import RunDirectory


class Sampling:
    """Generates the recipe's prompts with the model as it is.

    Args:
        recipe: says prompts, how many samples, and the seed.
        manager: has the generation component.
        run: context for the hook.
        engine: holds the model.
        tokenizer: the run's.
        chat: lays out prompts that are messages; None where they are text to continue.
        directory: where ``samples.jsonl`` lies; None on a rank that records nothing.
        emit: takes the event.
        signals: a stop request ends the generation.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        manager: pluggy.PluginManager,
        run: RunContext,
        engine: Engine,
        tokenizer: Tokenizer,
        chat: PromptLayout | None,
        directory: RunDirectory | None,
        emit: Callable[[Event], None],
        signals: StopSignals,
    ) -> None:
        self._recipe = recipe
        self._manager = manager
        self._run = run
        self._engine = engine
        self._tokenizer = tokenizer
        self._chat = chat
        self._directory = directory
        self._emit = emit
        self._signals = signals

    def at(self, step: int) -> list[dict[str, Any]]:
        """Generate, write and emit the samples of ``step``, replacing earlier ones of it.

        All ranks generate the same, in lockstep, and one records them.

        ``samples.jsonl`` gets what equal runs have in common; the seconds go to the event only.

        Raises:
            StopNow: a signal arrived while generating; nothing was written.
        """
        if not self._recipe.generation.prompts:
            return []
        with self._engine.gathered() as model:
            completions = self._generate(model)
        answers = {} if self._chat is None else {"answers": True}
        rows = [_row(step, item) | answers for item in completions]
        if self._directory is None:
            return rows
        cut_rows(self._directory.samples, from_step=step)
        with self._directory.samples.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        timed = (
            {**row, "seconds_per_token": round(item.seconds / max(1, item.tokens), 6)}
            for row, item in zip(rows, completions, strict=True)
        )
        self._emit(SamplesGenerated(step=step, samples=tuple(timed)))
        return rows

    def _generate(self, model: LanguageModel) -> Sequence[Completion]:
        keys = self._recipe.generation
        model.eval()
        try:
            generator: Generator = call_factory(
                self._manager,
                "forge_build_generator",
                run=self._run,
                model=model,
                tokenizer=self._tokenizer,
            )
            return generator.generate(
                prompt_request(
                    keys.prompts,
                    chat=self._chat,
                    system=keys.system,
                    samples=keys.samples,
                    seed=keys.seed,
                    on_text=lambda _index, _text: self._signals.check(),
                )
            )
        finally:
            model.train()


def _row(step: int, item: Completion) -> dict[str, Any]:
    return {
        "step": step,
        "prompt": item.prompt,
        "text": item.text,
        "tokens": item.tokens,
        "finish": item.finish,
        "distinct_1": round(distinct_n(item.text, 1), 6),
        "distinct_2": round(distinct_n(item.text, 2), 6),
    }


def distinct_n(text: str, n: int) -> float:
    """Return the number of different n-grams of words divided by the number of words.

    The measure distinct-n of Li et al., "A Diversity-Promoting Objective Function for Neural
    Conversation Models" (2016), for one text; near 0 for a text that repeats itself, 0 for one
    without words. Words are what white space separates, so that tokenizers compare.
    """
    words = text.split()
    if not words:
        return 0.0
    found = {tuple(words[start : start + n]) for start in range(len(words) - n + 1)}
    return len(found) / len(words)
