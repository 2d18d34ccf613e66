"""The contract of the kind ``optimizer``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from llmforge.component import Component
from llmforge.interfaces import RunContext
from llmforge.testing.contracts.base import Contract, build
from llmforge.testing.tiny_model import TinyModel

State = dict[str, dict[str, Any]]


class OptimizerContract(Contract):
    """Lowers a loss, takes its rate from the core, and keeps all state where checkpoints look."""

    options: ClassVar[Mapping[str, Any]] = {"lr": 0.02}

    @pytest.fixture
    def model(self) -> TinyModel:
        """A model whose parameters are optimised."""
        torch.manual_seed(1)
        return TinyModel(vocab_size=16, width=8)

    def _build(self, plugin: Component, run: RunContext, model: nn.Module) -> torch.optim.Optimizer:
        built: torch.optim.Optimizer = build(
            plugin, "forge_build_optimizer", run=run, parameters=list(model.named_parameters())
        )
        return built

    def test_it_owns_every_parameter_once(
        self, plugin: Component, run: RunContext, model: TinyModel
    ) -> None:
        optimizer = self._build(plugin, run, model)
        owned = [id(item) for group in optimizer.param_groups for item in group["params"]]
        assert sorted(owned) == sorted(id(item) for item in model.parameters())

    def test_every_group_says_its_initial_learning_rate(
        self, plugin: Component, run: RunContext, model: TinyModel
    ) -> None:
        for group in self._build(plugin, run, model).param_groups:
            assert group["initial_lr"] > 0
            assert group["lr"] == group["initial_lr"]

    def test_it_lowers_the_loss(self, plugin: Component, run: RunContext, model: TinyModel) -> None:
        losses = _train(model, self._build(plugin, run, model), steps=40)
        assert losses[-1] < 0.8 * losses[0]

    def test_a_learning_rate_of_zero_changes_nothing(
        self, plugin: Component, run: RunContext, model: TinyModel
    ) -> None:
        optimizer = self._build(plugin, run, model)
        before = _copies(model)
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        _train(model, optimizer, steps=2)
        assert _equal(before, _copies(model))

    def test_its_state_is_tensors_and_numbers_by_parameter(
        self, plugin: Component, run: RunContext, model: TinyModel
    ) -> None:
        optimizer = self._build(plugin, run, model)
        _train(model, optimizer, steps=2)
        assert set(optimizer.state) <= set(model.parameters())
        for values in optimizer.state.values():
            for key, value in values.items():
                assert isinstance(key, str)
                assert isinstance(value, Tensor | int | float), f"{key} is {type(value).__name__}"

    def test_a_new_one_with_that_state_goes_on_exactly(
        self, plugin: Component, run: RunContext, model: TinyModel
    ) -> None:
        optimizer = self._build(plugin, run, model)
        _train(model, optimizer, steps=4)
        other = TinyModel(vocab_size=16, width=8)
        other.load_state_dict(_copies(model))
        resumed = self._build(plugin, run, other)
        _put_state(resumed, other, _take_state(optimizer, model))
        _train(model, optimizer, steps=4)
        _train(other, resumed, steps=4)
        assert _equal(_copies(model), _copies(other)), "some state is not in optimizer.state"


def _train(model: TinyModel, optimizer: torch.optim.Optimizer, *, steps: int) -> list[float]:
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randint(16, (4, 9), generator=generator)
    losses = []
    for _ in range(steps):
        loss, count = model.loss({"inputs": inputs[:, :-1], "targets": inputs[:, 1:]})
        mean = loss / count
        mean.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(mean.item())
    return losses


def _copies(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _equal(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(value, right[name]) for name, value in left.items())


def _take_state(optimizer: torch.optim.Optimizer, model: nn.Module) -> State:
    return {
        name: {
            key: value.clone() if isinstance(value, Tensor) else value
            for key, value in optimizer.state[parameter].items()
        }
        for name, parameter in model.named_parameters()
        if parameter in optimizer.state
    }


def _put_state(optimizer: torch.optim.Optimizer, model: nn.Module, state: State) -> None:
    parameters = dict(model.named_parameters())
    for name, values in state.items():
        optimizer.state[parameters[name]] = values
