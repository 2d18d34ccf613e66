"""The contract of the kind ``backend``, on the CPU in fp32."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from llmforge.component import Component
from llmforge.errors import CheckpointError
from llmforge.interfaces import IGNORE_INDEX, Engine, EngineState, RunContext
from llmforge.plugins import build_manager
from llmforge.testing.contracts.base import Contract, build
from llmforge.testing.tiny_model import TinyModel

VOCABULARY, RATE = 16, 0.05
Batch = dict[str, Tensor]


class BackendContract(Contract):
    """An engine whose step equals plain PyTorch's, and whose state comes back exactly."""

    @pytest.fixture
    def engine(self, plugin: Component, run: RunContext) -> Engine:
        """The engine over a small model without dropout."""
        return self._prepare(plugin, run)

    def _prepare(
        self, plugin: Component, run: RunContext, *, dropout: float = 0.0, seed: int = 1
    ) -> Engine:
        backend = build(plugin, "forge_build_backend", run=run)
        engine: Engine = backend.prepare(
            lambda: _model(dropout=dropout, seed=seed), _optimizer, _schedule
        )
        return engine

    def test_a_device_it_cannot_use_is_told_before_the_data_are_prepared(
        self, plugin: Component, run: RunContext
    ) -> None:
        train = run.train.model_copy(update={"device": "cuda:99"})
        elsewhere = dataclasses.replace(run, train=train)
        answers = build_manager([plugin]).hook.forge_preflight(run=elsewhere)
        if not [problem for answer in answers for problem in answer]:
            self._prepare(plugin, elsewhere)  # what this refuses, forge_preflight has to

    def test_it_says_what_it_chose_and_why(self, engine: Engine) -> None:
        resolution = engine.resolution
        assert resolution.device == str(engine.device) == "cpu"
        assert (resolution.precision, resolution.compile) == ("fp32", False)
        assert resolution.hardware
        assert all(isinstance(reason, str) and reason for reason in resolution.reasons)

    def test_its_steps_equal_plain_pytorch(self, engine: Engine, run: RunContext) -> None:
        reference = _model()
        optimizer = _optimizer(list(reference.named_parameters()))
        for step in range(4):
            batch = _batch(step)
            count = _targets(batch)
            first, second = _halves(batch)
            engine.accumulate(first, targets=count, seed=step, last=False)
            engine.accumulate(second, targets=count, seed=step, last=True)
            result = engine.step(step)
            total, _ = reference.loss(batch)
            (total / count).backward()
            norm = torch.nn.utils.clip_grad_norm_(reference.parameters(), run.train.grad_clip)
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * _schedule(step)
            optimizer.step()
            optimizer.zero_grad()
            torch.testing.assert_close(result.loss_sum.float(), total.detach())
            torch.testing.assert_close(result.grad_norm.float(), norm)
            assert result.learning_rate == pytest.approx(RATE * _schedule(step))
        expected = dict(reference.named_parameters())
        for name, value in engine.state().model.items():
            torch.testing.assert_close(value, expected[name].detach(), rtol=1e-5, atol=1e-6)

    def test_its_gradients_are_those_of_what_was_accumulated(self, engine: Engine) -> None:
        reference, batch = _model(), _batch(0)
        count = _targets(batch)
        first, second = _halves(batch)
        engine.accumulate(first, targets=count, seed=0, last=False)
        engine.accumulate(second, targets=count, seed=0, last=True)
        (reference.loss(batch)[0] / count).backward()
        found = engine.gradients()
        for name, parameter in reference.named_parameters():
            assert parameter.grad is not None
            torch.testing.assert_close(found[name].float(), parameter.grad, rtol=1e-4, atol=1e-6)

    def test_a_discarded_micro_batch_leaves_no_trace(
        self, plugin: Component, run: RunContext, engine: Engine
    ) -> None:
        other = self._prepare(plugin, run)
        other.accumulate(_batch(99), targets=8, seed=9, last=False)
        other.discard()
        _train(engine, range(2))
        _train(other, range(2))
        assert _equal(other.state(), engine.state())

    def test_the_seed_of_a_micro_batch_decides_its_dropout(
        self, plugin: Component, run: RunContext
    ) -> None:
        def trained(seed: int, *, elsewhere: int = 0) -> EngineState:
            engine = self._prepare(plugin, run, dropout=0.5)
            torch.manual_seed(elsewhere)
            engine.accumulate(_batch(0), targets=_targets(_batch(0)), seed=seed, last=True)
            engine.step(0)
            return _copied(engine.state())

        first = trained(3)
        assert _equal(trained(3, elsewhere=1), first)
        assert not _equal(trained(4), first)

    def test_evaluation_sums_and_counts_without_changing_anything(self, engine: Engine) -> None:
        before = _copied(engine.state())
        batch = _batch(0)
        total, count = engine.evaluate(batch)
        expected, number = _model().loss(batch)
        torch.testing.assert_close(total.float(), expected.detach())
        assert int(count) == int(number)
        assert not total.requires_grad
        assert _equal(engine.state(), before)

    def test_evaluation_is_without_dropout_and_training_with_it_again(
        self, plugin: Component, run: RunContext
    ) -> None:
        engine = self._prepare(plugin, run, dropout=0.5)
        assert torch.equal(engine.evaluate(_batch(0))[0], engine.evaluate(_batch(0))[0])
        other = self._prepare(plugin, run, dropout=0.5)
        _train(engine, range(1))
        _train(other, range(1))
        assert _equal(engine.state(), other.state())

    def test_a_run_goes_on_exactly_from_its_state(
        self, plugin: Component, run: RunContext, engine: Engine
    ) -> None:
        _train(engine, range(3))
        kept = _copied(engine.state())
        other = self._prepare(plugin, run, seed=2)
        other.load_state(kept)
        assert _equal(other.state(), kept)
        _train(engine, range(3, 6))
        _train(other, range(3, 6))
        assert _equal(other.state(), engine.state())

    def test_its_whole_weights_can_be_had_for_generation(self, engine: Engine) -> None:
        _train(engine, range(1))
        expected = _cloned(engine.state().model)
        with engine.gathered() as model:
            assert _cloned(dict(model.named_parameters())).keys() == expected.keys()
            for name, value in model.named_parameters():
                assert torch.equal(value.detach(), expected[name])

    def test_its_optimizer_state_is_named_after_parameters(self, engine: Engine) -> None:
        _train(engine, range(1))
        names = {name for name, _ in engine.model.named_parameters()}
        state = engine.state()
        assert set(state.model) == names
        assert {name.rpartition("/")[0] for name in state.optimizer} == names

    def test_frozen_parameters_stay_as_they_are_and_out_of_its_state(
        self, plugin: Component, run: RunContext
    ) -> None:
        backend = build(plugin, "forge_build_backend", run=run)
        engine, other = (
            backend.prepare(lambda: _partly_frozen(_model()), _optimizer, _schedule)
            for _ in range(2)
        )
        _train(engine, range(2))
        state = _copied(engine.state())
        assert set(state.model) == {"mix.weight", "mix.bias"}
        assert {name.rpartition("/")[0] for name in state.optimizer} == set(state.model)
        with engine.gathered() as model:
            found = _cloned(dict(model.named_parameters()))
        for name, value in _model().named_parameters():
            assert torch.equal(found[name], value) == (name not in state.model)
        other.load_state(state)
        _train(engine, range(2, 4))
        _train(other, range(2, 4))
        assert _equal(other.state(), engine.state())

    @pytest.mark.parametrize("damage", ["missing", "unknown", "shape"])
    def test_a_state_that_does_not_fit_is_refused(self, engine: Engine, damage: str) -> None:
        _train(engine, range(1))
        weights = dict(_copied(engine.state()).model)
        if damage == "missing":
            weights.pop("head.weight")
        elif damage == "unknown":
            weights["nobody.weight"] = torch.zeros(1)
        else:
            weights["head.weight"] = torch.zeros(3, 3)
        with pytest.raises(CheckpointError):
            engine.load_state(dataclasses.replace(engine.state(), model=weights))

    def test_it_notices_numbers_that_are_not_finite(
        self, plugin: Component, run: RunContext, engine: Engine
    ) -> None:
        _train(engine, range(2))
        assert engine.finite()
        other = self._prepare(plugin, run)
        broken = dict(_copied(other.state()).model)
        broken["head.weight"].fill_(float("nan"))
        other.load_state(dataclasses.replace(other.state(), model=broken))
        _train(other, range(1))
        assert not other.finite()


def _model(*, dropout: float = 0.0, seed: int = 1) -> TinyModel:
    torch.manual_seed(seed)
    return TinyModel(vocab_size=VOCABULARY, dropout=dropout)


def _partly_frozen(model: TinyModel) -> TinyModel:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("mix"))
    return model


def _optimizer(parameters: list[tuple[str, Any]]) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW([value for _, value in parameters], lr=RATE)
    for group in optimizer.param_groups:
        group["initial_lr"] = RATE
    return optimizer


def _schedule(step: int) -> float:
    return 1 / (1 + step)


def _batch(number: int) -> Batch:
    generator = torch.Generator().manual_seed(number)
    tokens = torch.randint(VOCABULARY, (4, 9), generator=generator)
    targets = tokens[:, 1:].clone()
    targets[0, :2] = IGNORE_INDEX
    return {"inputs": tokens[:, :-1].contiguous(), "targets": targets}


def _halves(batch: Mapping[str, Tensor]) -> list[Batch]:
    return [
        {name: value[rows] for name, value in batch.items()} for rows in (slice(2), slice(2, 4))
    ]


def _targets(batch: Mapping[str, Tensor]) -> int:
    return int((batch["targets"] != IGNORE_INDEX).sum())


def _train(engine: Engine, steps: range) -> None:
    for step in steps:
        batch = _batch(step)
        engine.accumulate(batch, targets=_targets(batch), seed=step, last=True)
        engine.step(step)


def _copied(state: EngineState) -> EngineState:
    return EngineState(_cloned(state.model), _cloned(state.optimizer), dict(state.values))


def _cloned(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in tensors.items()}


def _equal(left: EngineState, right: EngineState) -> bool:
    return all(
        mine.keys() == yours.keys() and all(torch.equal(mine[name], yours[name]) for name in mine)
        for mine, yours in ((left.model, right.model), (left.optimizer, right.optimizer))
    )
