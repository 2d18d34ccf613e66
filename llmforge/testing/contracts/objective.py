"""The contract of the kind ``objective``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pytest

from llmforge.component import Component
from llmforge.interfaces import (
    IGNORE_INDEX,
    Conversation,
    Example,
    ExampleEncoder,
    Message,
    Objective,
    RunContext,
)
from llmforge.testing.context import make_component
from llmforge.testing.contracts.base import Contract, build
from llmforge.testing.stand_ins import example_encoder

_ANSWERS = ("The sea.", "Because it is cold there, and dark for half the year.", "Two.")

CONVERSATIONS: tuple[Example, ...] = tuple(
    Conversation(
        messages=(
            Message(role="user", content=f"Question number {number}?"),
            Message(role="assistant", content=answer),
        ),
        source=f"questions.jsonl:{number}",
    )
    for number, answer in enumerate(_ANSWERS, 1)
)


class ObjectiveContract(Contract):
    """Rows that are the same each time, and batches that can be divided without a change.

    Attributes:
        examples: what it learns from; conversations unless a subclass says otherwise.
    """

    examples: ClassVar[Sequence[Example]] = CONVERSATIONS

    @pytest.fixture
    def encoder(self) -> ExampleEncoder:
        """Makes tokens of texts."""
        return example_encoder(labels=("no", "yes"))

    @pytest.fixture
    def objective(self, plugin: Component, run: RunContext, encoder: ExampleEncoder) -> Objective:
        """The objective under test."""
        built: Objective = build(plugin, "forge_build_objective", run=run)
        built.open(encoder)
        return built

    def test_it_says_what_models_it_is_for(self, plugin: Component, objective: Objective) -> None:
        assert objective.form in plugin.supports, "name its form in supports"

    def test_what_its_rows_depend_on_can_be_part_of_a_fingerprint(
        self, plugin: Component, run: RunContext, objective: Objective
    ) -> None:
        given = plugin.options.model_dump(exclude_unset=True)
        other = build(make_component(type(plugin), given), "forge_build_objective", run=run)
        assert json.dumps(list(other.key)) == json.dumps(list(objective.key))

    def test_rows_are_tokens_with_something_to_learn_and_equal_each_time(
        self, objective: Objective, encoder: ExampleEncoder
    ) -> None:
        for example in self.examples:
            total, rows = objective.rows(example, encoder)
            assert rows and total >= max(len(row.ids) for row in rows)
            for row in rows:
                assert len(row.ids) == len(row.scored)
                assert all(0 <= token < encoder.vocab_size for token in row.ids)
                assert row.targets
            assert objective.rows(example, encoder) == (total, rows)

    def test_a_batch_divided_is_the_same_batch(
        self, objective: Objective, encoder: ExampleEncoder
    ) -> None:
        if objective.form == Objective.form:
            assert type(objective).batch is Objective.batch, "llmforge makes its batches itself"
            return
        rows = self._arrays(objective, encoder)
        seeds = [1000 + place for place in range(len(rows))]
        whole = self._batch(objective, rows, seeds, encoder)
        counts = objective.targets(np.array([int(scored.sum()) for _, scored in rows]))
        assert int((whole["targets"] != IGNORE_INDEX).sum()) == int(counts.sum())
        for place, (row, seed) in enumerate(zip(rows, seeds, strict=True)):
            alone = self._batch(objective, [row], [seed], encoder)
            for name, array in alone.items():
                cut = whole[name][place]
                assert np.array_equal(array[0], cut[: len(array[0])] if cut.ndim else cut), name

    def _arrays(self, objective: Objective, encoder: ExampleEncoder) -> list[tuple[Any, Any]]:
        rows = [row for item in self.examples for row in objective.rows(item, encoder)[1]]
        return [(np.array(row.ids), np.array(row.scored)) for row in rows]

    def _batch(
        self,
        objective: Objective,
        rows: Sequence[tuple[Any, Any]],
        seeds: Sequence[int],
        encoder: ExampleEncoder,
    ) -> dict[str, Any]:
        return objective.batch(rows, context=encoder.context, seeds=seeds)
