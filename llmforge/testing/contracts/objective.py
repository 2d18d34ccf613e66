"""The contract of the kind ``objective``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from llmforge.component import Component
from llmforge.interfaces import (
    IGNORE_INDEX,
    PREFERENCES,
    REFERENCE,
    Conversation,
    Example,
    ExampleEncoder,
    Message,
    Objective,
    Preference,
    RunContext,
)
from llmforge.run.objective_loss import has_own_loss
from llmforge.testing.context import make_component
from llmforge.testing.contracts.base import Contract, build
from llmforge.testing.stand_ins import example_encoder
from llmforge.testing.tiny_model import TinyModel

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


PAIRS: tuple[Example, ...] = tuple(
    Preference(
        prompt=(Message(role="user", content=f"Question number {number}?"),),
        chosen=Message(role="assistant", content=answer),
        rejected=Message(role="assistant", content="Who knows."),
        source=f"pairs.jsonl:{number}",
    )
    for number, answer in enumerate(_ANSWERS, 1)
)


class ObjectiveContract(Contract):
    """Rows that are the same each time, and batches that can be divided without a change.

    Attributes:
        examples: what it learns from; when absent conversations, or pairs of answers if it
            ``supports`` preferences.
    """

    examples: ClassVar[Sequence[Example]] = ()

    @pytest.fixture
    def learned(self, plugin: Component) -> Sequence[Example]:
        """The examples."""
        return self.examples or (PAIRS if PREFERENCES in plugin.supports else CONVERSATIONS)

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
        self, objective: Objective, encoder: ExampleEncoder, learned: Sequence[Example]
    ) -> None:
        for example in learned:
            total, rows = objective.rows(example, encoder)
            assert rows and total * objective.sequences >= max(len(row.ids) for row in rows)
            for row in rows:
                assert len(row.ids) == len(row.scored)
                assert all(0 <= token < encoder.vocab_size for token in row.ids)
                assert row.targets
            assert objective.rows(example, encoder) == (total, rows)

    def test_the_sequences_of_a_row_are_all_of_it(
        self, objective: Objective, encoder: ExampleEncoder, learned: Sequence[Example]
    ) -> None:
        for ids, scored in _arrays(objective, encoder, learned):
            parts = objective.parts(ids, scored)
            assert len(parts) == objective.sequences
            assert np.concatenate([part for _, part, _ in parts]).tolist() == ids.tolist()
            assert all(len(part) == len(learns) for _, part, learns in parts)

    def test_a_batch_divided_is_the_same_batch(
        self, objective: Objective, encoder: ExampleEncoder, learned: Sequence[Example]
    ) -> None:
        if objective.form == Objective.form:
            assert type(objective).batch is Objective.batch, "llmforge makes its batches itself"
            return
        rows = _arrays(objective, encoder, learned)
        seeds = [1000 + place for place in range(len(rows))]
        whole = _batch(objective, rows, seeds, encoder)
        if not has_own_loss(objective):
            targets = int((whole["targets"] != IGNORE_INDEX).sum())
            assert targets == int(_targets(objective, rows).sum())
        for place, (row, seed) in enumerate(zip(rows, seeds, strict=True)):
            alone = _batch(objective, [row], [seed], encoder)
            for name, array in alone.items():
                cut = whole[name][place]
                assert np.array_equal(array[0], cut[tuple(map(slice, array[0].shape))]), name

    # Only of those with a loss of their own -----------------------------------------------------

    def test_it_measures_what_its_component_says(
        self, plugin: Component, objective: Objective
    ) -> None:
        assert tuple(objective.measures) == plugin.measures

    def test_the_losses_and_gradients_of_rows_add_up(
        self, objective: Objective, encoder: ExampleEncoder, learned: Sequence[Example]
    ) -> None:
        if not has_own_loss(objective):
            return
        rows = _arrays(objective, encoder, learned)
        model = _model(encoder, seed=1)
        total, count = objective.loss(model, _tensors(objective, rows, encoder))
        assert total.shape == count.shape == ()
        assert int(count) == int(_targets(objective, rows).sum())
        total.backward()
        whole = [parameter.grad for parameter in model.parameters()]
        model.zero_grad()
        losses = [objective.loss(model, _tensors(objective, [row], encoder))[0] for row in rows]
        added = torch.stack(losses).sum()
        added.backward()
        assert_close(added, total, rtol=1e-4, atol=1e-4)
        for parameter, expected in zip(model.parameters(), whole, strict=True):
            assert_close(parameter.grad, expected, rtol=1e-3, atol=1e-5)

    def test_rows_without_a_scored_target_count_for_nothing(
        self, objective: Objective, encoder: ExampleEncoder, learned: Sequence[Example]
    ) -> None:
        if not has_own_loss(objective):
            return
        rows = _arrays(objective, encoder, learned)
        batch = _tensors(objective, rows, encoder)
        batch["targets"] = torch.full_like(batch["targets"], IGNORE_INDEX)
        sums, count = objective.evaluate(_model(encoder, seed=1), batch)
        assert (int(count), float(sums.detach().abs().sum())) == (0, 0.0)

    def test_an_evaluation_has_the_loss_and_what_is_measured(
        self, objective: Objective, encoder: ExampleEncoder, learned: Sequence[Example]
    ) -> None:
        if not has_own_loss(objective):
            return
        batch = _tensors(objective, _arrays(objective, encoder, learned), encoder)
        model = _model(encoder, seed=1)
        sums, count = objective.evaluate(model, batch)
        total, number = objective.loss(model, batch)
        assert sums.reshape(-1).shape == (1 + len(objective.measures),)
        assert_close(sums.reshape(-1)[0], total)
        assert int(count) == int(number)


def _arrays(
    objective: Objective, encoder: ExampleEncoder, examples: Sequence[Example]
) -> list[tuple[Any, Any]]:
    rows = [row for item in examples for row in objective.rows(item, encoder)[1]]
    return [(np.array(row.ids), np.array(row.scored)) for row in rows]


def _targets(objective: Objective, rows: Sequence[tuple[Any, Any]]) -> Any:
    return objective.targets(np.array([int(scored.sum()) for _, scored in rows]))


def _batch(
    objective: Objective,
    rows: Sequence[tuple[Any, Any]],
    seeds: Sequence[int],
    encoder: ExampleEncoder,
) -> dict[str, Any]:
    return objective.batch(rows, context=encoder.context, seeds=seeds)


def _tensors(
    objective: Objective, rows: Sequence[tuple[Any, Any]], encoder: ExampleEncoder
) -> dict[str, Any]:
    """Return a batch with the reference that another model gives, if it needs one."""
    arrays = _batch(objective, rows, list(range(len(rows))), encoder)
    tensors: dict[str, Any] = {name: torch.from_numpy(array) for name, array in arrays.items()}
    if objective.needs_reference:
        with torch.no_grad():
            found = objective.reference(_model(encoder, seed=2), tensors)
        tensors[REFERENCE] = found.float().view(torch.int32)
    return tensors


def _model(encoder: ExampleEncoder, *, seed: int) -> TinyModel:
    torch.manual_seed(seed)
    return TinyModel(encoder.vocab_size, context=encoder.context)
