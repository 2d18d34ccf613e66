"""The contract of the kind ``sweep``."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar, Literal

import pytest

from llmforge.component import Component
from llmforge.interfaces import Dimension, Point, Space, Sweeper
from llmforge.testing.context import make_component
from llmforge.testing.contracts.base import Contract, build

_POINTS = 8


class SweeperContract(Contract):
    """Points of the space, the same ones for the same history, and reasons to prune.

    Attributes:
        space: what is searched.
    """

    space: ClassVar[Space] = Space(
        dimensions=(
            Dimension(key="train.batch_size", kind="choice", choices=(4, 8, 16)),
            Dimension(key="model.transformer.layers", kind="int", low=1, high=6, step=1),
            Dimension(
                key="optimizer.adamw.lr",
                kind="choice",
                choices=(1e-4, 1e-3, 1e-2),
                when={"train.batch_size": (8, 16)},
            ),
        )
    )

    @pytest.fixture
    def sweeper(self, plugin: Component) -> Sweeper:
        """The sweeper under test."""
        return self.build(plugin)

    def build(self, plugin: Component, *, seed: int = 0) -> Sweeper:
        """Build the sweeper as the core does."""
        built: Sweeper = build(
            plugin, "forge_build_sweeper", space=self.space, direction="minimize", seed=seed
        )
        return built

    def tried(self, sweeper: Sweeper) -> list[Point]:
        """Return a short search in which more layers are always better."""
        history: list[Point] = []
        for number in range(_POINTS):
            parameters = sweeper.propose(number, tuple(history))
            if parameters is None:
                break
            value = 10.0 / (1.0 + math.fsum(float(item) for item in parameters.values()))
            history.append(
                Point(
                    number=number,
                    parameters=dict(parameters),
                    state="completed",
                    value=value,
                    curve={10: value + 1, 20: value},
                )
            )
        return history

    def test_every_proposal_is_a_point_of_the_space(self, sweeper: Sweeper) -> None:
        history = self.tried(sweeper)
        assert history
        assert all(self.space.contains(point.parameters) for point in history)

    def test_a_fresh_sweeper_proposes_the_same_after_the_same_history(
        self, plugin: Component, sweeper: Sweeper
    ) -> None:
        history = self.tried(sweeper)
        fresh = make_component(type(plugin), plugin.options.model_dump(exclude_unset=True))
        for number, point in enumerate(history):
            # one sweeper for each, as after a crash: none may have kept anything
            proposed = self.build(fresh).propose(number, tuple(history[:number]))
            assert proposed == point.parameters

    def test_asking_twice_gives_the_same(self, sweeper: Sweeper) -> None:
        history = tuple(self.tried(sweeper)[:3])
        assert sweeper.propose(3, history) == sweeper.propose(3, history)

    def test_it_goes_on_while_earlier_trials_run_failed_or_were_pruned(
        self, sweeper: Sweeper
    ) -> None:
        found = self.tried(sweeper)[:3]
        states: tuple[Literal["running", "failed", "pruned"], ...] = ("running", "failed", "pruned")
        history = [
            replace(point, state=state, value=None)
            for point, state in zip(found, states, strict=False)
        ]
        proposed = sweeper.propose(len(history), history)
        assert proposed is None or self.space.contains(proposed)

    def test_pruning_is_a_reason_or_nothing_and_the_first_trial_goes_on(
        self, sweeper: Sweeper
    ) -> None:
        point, *others = self.tried(sweeper)
        assert sweeper.prune(point, ()) is None
        reason = sweeper.prune(point, others)
        assert reason is None or (isinstance(reason, str) and reason)
