"""Sampling a few texts while and after training, into ``samples.jsonl`` and to the trackers.

Tests of ``generation.tests`` are put to the model with them, and reported in ``examples.json``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pluggy

from llmforge.data.order import Epochs
from llmforge.data.prompts import PromptLayout, chosen, prompt_request
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
from llmforge.recipe.generation_tests import read_tests
from llmforge.recipe.schema import parse_interval
from llmforge.run.generation_tests import (
    Asked,
    TestResult,
    distinct_n,
    prepare_tests,
    put_tests,
    report,
)
from llmforge.run.reporting.metrics_files import cut_rows
from llmforge.run.signals import StopSignals
from llmforge.rundir import RunDirectory
from llmforge.rundir.atomic import write_json


class Sampling:
    """Generates the recipe's prompts with the model as it is.

    Args:
        recipe: says prompts, how many samples, and the seed.
        manager: has the generation component.
        run: context for the hook.
        engine: holds the model.
        tokenizer: the run's.
        template: lays out messages; None for a run on running text.
        epochs: say at which step what is due.
        directory: where ``samples.jsonl`` lies; None on a rank that records nothing.
        emit: takes the event.
        signals: a stop request ends the generation.

    Raises:
        RecipeError: the file of tests cannot be used.
        UsageError: a test has messages, and there is no template.
        TemplateError: the template refuses a test's messages.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        manager: pluggy.PluginManager,
        run: RunContext,
        engine: Engine,
        tokenizer: Tokenizer,
        template: PromptLayout | None,
        epochs: Epochs,
        directory: RunDirectory | None,
        emit: Callable[[Event], None],
        signals: StopSignals,
    ) -> None:
        self._recipe = recipe
        self._manager = manager
        self._run = run
        self._engine = engine
        self._tokenizer = tokenizer
        keys = recipe.generation
        self._chat = chosen(template, wanted=keys.chat)
        self._tests = prepare_tests(
            read_tests(keys.tests),
            template=template,
            chat=keys.chat,
            system=keys.system,
            seed=keys.seed,
        )
        self._due, self._tests_due = (
            epochs.due(parse_interval(interval)) for interval in (keys.every, keys.tests_every)
        )
        self._directory = directory
        self._emit = emit
        self._signals = signals

    def due(self, step: int) -> bool:
        """Return whether samples, or tests, are wanted at ``step`` while training."""
        return self._due(step) or self._tests_due(step)

    def at(self, step: int, *, final: bool = False) -> list[dict[str, Any]]:
        """Generate, write and emit the samples of ``step``, replacing earlier ones of it.

        All ranks generate the same, in lockstep, and one records them.

        ``samples.jsonl`` gets what equal runs have in common; the seconds go to the event, and
        those of tests to ``examples.json``.

        Args:
            step: the model is at.
            final: whether training has ended: then all are due.

        Raises:
            StopNow: a signal arrived while generating; nothing was written.
        """
        prompts = self._recipe.generation.prompts if final or self._due(step) else []
        tests = self._tests if final or self._tests_due(step) else []
        if not prompts and not tests:
            return []
        with self._engine.gathered() as model:
            completions, results = self._generate(model, prompts, tests)
        answers = {} if self._chat is None else {"answers": True}
        rows = [_row(step, item) | answers for item in completions]
        rows += [result.row(step) for result in results]
        if self._directory is None:
            return rows
        cut_rows(self._directory.samples, from_step=step)
        with self._directory.samples.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        if results:
            write_json(self._directory.examples, {"step": step, **report(results)})
        timing = [
            {"seconds_per_token": round(item.seconds / max(1, item.tokens), 6)}
            for item in completions
        ]
        timing += [result.timing() for result in results]
        timed = tuple(row | more for row, more in zip(rows, timing, strict=True))
        self._emit(SamplesGenerated(step=step, samples=timed))
        return rows

    def _generate(
        self, model: LanguageModel, prompts: Sequence[str], tests: Sequence[Asked]
    ) -> tuple[Sequence[Completion], Sequence[TestResult]]:
        model.eval()
        try:
            generator: Generator = call_factory(
                self._manager,
                "forge_build_generator",
                run=self._run,
                model=model,
                tokenizer=self._tokenizer,
            )
            completions = self._continue(generator, prompts) if prompts else []
            return completions, put_tests(generator, tests, check=self._signals.check)
        finally:
            model.train()

    def _continue(self, generator: Generator, prompts: Sequence[str]) -> Sequence[Completion]:
        keys = self._recipe.generation
        return generator.generate(
            prompt_request(
                prompts,
                chat=self._chat,
                system=keys.system,
                samples=keys.samples,
                seed=keys.seed,
                on_text=lambda _index, _text: self._signals.check(),
            )
        )


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
