"""Generating the answers of an evaluation, and measuring them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

import pluggy
import torch

from llmforge.data.example_rows import ExampleSplit
from llmforge.data.questions import Question, questions
from llmforge.distributed import Team
from llmforge.errors import DataError, TrainingError
from llmforge.interfaces import (
    Engine,
    GenerationRequest,
    Generator,
    LanguageModel,
    Metric,
    RunContext,
    Tokenizer,
)
from llmforge.plugins import call_each_factory, call_factory
from llmforge.progress import track
from llmforge.recipe import Recipe
from llmforge.recipe.measured import selected_metrics
from llmforge.recipe.schema import MetricKeys
from llmforge.run.signals import StopNow, StopSignals

ANSWERS = "answers"
"""What a metric needs that is measured here."""

_AT_ONCE = 16
"""Answers generated as one batch, on every machine: their number may tip the balance between two
tokens that are as likely."""


def measures(needs: str, recipe: Recipe) -> bool:
    """Return whether a recipe selects a metric of ``answers``, or of ``labels``."""
    selected = selected_metrics(recipe.selections).values()
    return any(component.needs == needs for component in selected)


class AnswerMetrics:
    """Measures the recipe's metrics over answers of the model as it is.

    Args:
        recipe: says which metrics, over how many rows.
        manager: has the metrics and the generation component.
        run: context for the hooks.
        engine: holds the model.
        tokenizer: the run's.
        split: rows that are answered.
        signals: a stop request ends it.
        team: the ranks, which generate the same answers in lockstep and get the same values.
    """

    phase = "answering"

    def __init__(
        self,
        recipe: Recipe,
        *,
        manager: pluggy.PluginManager,
        run: RunContext,
        engine: Engine,
        tokenizer: Tokenizer,
        split: ExampleSplit,
        signals: StopSignals,
        team: Team,
    ) -> None:
        self._recipe = recipe
        self._manager = manager
        self._run = run
        self._engine = engine
        self._tokenizer = tokenizer
        self._split = split
        self._signals = signals
        self._team = team

    def measure(self, stop: Callable[[], bool]) -> dict[str, float] | None:
        """Return ``val/{name}`` of each value, or None when ``stop`` or a signal said so.

        Args:
            stop: asked before each batch; the same on all ranks.
        """
        alone = self._team.place.world_size == 1
        try:
            with self._engine.gathered() as model:
                values = self._measure(model, stop, at_once=alone)
        except StopNow:
            return None  # the loop sees the request
        return None if values is None else self._team.broadcast(values)

    def _measure(
        self, model: LanguageModel, stop: Callable[[], bool], *, at_once: bool
    ) -> dict[str, float] | None:
        model.eval()
        try:
            generator: Generator = call_factory(
                self._manager,
                "forge_build_generator",
                run=self._run,
                model=model,
                tokenizer=self._tokenizer,
            )
            return measure_answers(
                generator,
                metrics_that_need(ANSWERS, self._recipe, self._manager, self._run),
                self._split,
                tokenizer=self._tokenizer,
                keys=self._recipe.metric,
                name="val",
                stop=stop,
                # Ranks must break off together, so that only one that is alone does so at once.
                check=self._signals.check if at_once else lambda: None,
            )
        finally:
            model.train()


def metrics_that_need(
    needs: str, recipe: Recipe, manager: pluggy.PluginManager, run: RunContext
) -> dict[str, Metric]:
    """Return new metrics of ``answers`` or ``labels`` by name, those that ``recipe`` selects."""
    built: dict[str, Metric] = call_each_factory(manager, "forge_build_metric", run=run)
    selected = selected_metrics(recipe.selections)
    return {name: built[name] for name, item in selected.items() if item.needs == needs}


def measure_answers(
    generator: Generator,
    metrics: Mapping[str, Metric],
    split: ExampleSplit,
    *,
    tokenizer: Tokenizer,
    keys: MetricKeys,
    name: str,
    stop: Callable[[], bool] = lambda: False,
    check: Callable[[], None] = lambda: None,
) -> dict[str, float] | None:
    """Return the values of ``metrics`` over greedy answers to the first rows of ``split``.

    Prediction and reference are compared without white space around them: whether a tokenizer
    joins it to the answer's first word must not count.

    Args:
        generator: over the model in evaluation mode.
        metrics: new ones.
        split: rows of which answers are scored.
        tokenizer: of the rows.
        keys: how many rows, and how long an answer may be.
        name: prefix of the values: ``val`` or ``test``.
        stop: asked before each batch.
        check: called while generating; may raise.

    Returns:
        The values, or None when ``stop`` said so.

    Raises:
        DataError: no row has a prompt.
        TrainingError: not even one answer fits into memory.
    """
    left = iter(questions(split, tokenizer, rows=keys.rows))
    limit, answered = keys.max_new_tokens, 0
    rows = min(keys.rows, split.rows) or split.rows
    with track(f"answering {name}", total=rows, unit="answers") as task:
        while batch := list(islice(left, _AT_ONCE)):
            if stop():
                return None
            texts = _answer(generator, batch, tokenizer=tokenizer, limit=limit, check=check)
            for metric in metrics.values():
                metric.update(texts, [question.reference for question in batch])
            answered += len(batch)
            task.advance(len(batch))
    if not answered:
        raise DataError(
            "no row has a prompt before its answer, so that there is nothing to generate for "
            f"{', '.join(metrics)}",
            remedy='train_on = "responses" and a larger context, or take metric.names out',
        )
    return {
        f"{name}/{key}": float(value)
        for metric in metrics.values()
        for key, value in metric.compute().items()
    }


def _answer(
    generator: Generator,
    batch: Sequence[Question],
    *,
    tokenizer: Tokenizer,
    limit: int,
    check: Callable[[], None],
) -> list[str]:
    request: dict[str, Any] = {
        "stop_ids": frozenset(item.end_id for item in batch if item.end_id is not None),
        "max_new_tokens": limit,
        "greedy": True,
        "on_text": lambda _index, _text: check(),
    }
    try:
        done = generator.generate(
            GenerationRequest(
                prompts=[tokenizer.decode(item.prompt) for item in batch],
                prompt_ids=[item.prompt for item in batch],
                **request,
            )
        )
    except torch.OutOfMemoryError as error:
        if len(batch) == 1:
            raise TrainingError(
                f"out of memory generating one answer of at most {limit} tokens",
                remedy="set metric.max_new_tokens to less; see docs/troubleshooting.md#memory",
            ) from error
    else:
        return [item.text.strip() for item in done]
    middle = len(batch) // 2
    return [
        text
        for part in (batch[:middle], batch[middle:])
        for text in _answer(generator, part, tokenizer=tokenizer, limit=limit, check=check)
    ]
