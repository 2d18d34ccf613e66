"""The contract of the kind ``callback``."""

from __future__ import annotations

import json
import math

import pluggy
import pytest

from llmforge import events
from llmforge.component import Component
from llmforge.errors import Problem
from llmforge.interfaces import RunContext
from llmforge.plugins import build_manager
from llmforge.testing.context import make_component
from llmforge.testing.contracts.tracker import EventsContract, Tell


class CallbackContract(EventsContract):
    """Takes every event, and answers the collecting hooks with what they are meant to return."""

    @pytest.fixture
    def manager(self, plugin: Component) -> pluggy.PluginManager:
        """A manager with the component in it."""
        return build_manager([plugin])

    def test_preflight_answers_problems(
        self, manager: pluggy.PluginManager, run: RunContext
    ) -> None:
        for answer in manager.hook.forge_preflight(run=run):
            assert all(isinstance(problem, Problem) for problem in answer)

    def test_extra_metrics_are_numbers_by_name(
        self, manager: pluggy.PluginManager, run: RunContext
    ) -> None:
        for answer in manager.hook.forge_extra_metrics(run=run, step=1):
            assert all(isinstance(name, str) and name for name in answer)
            assert all(not math.isnan(float(value)) for value in answer.values())

    def test_a_reason_to_stop_is_a_text(
        self, manager: pluggy.PluginManager, run: RunContext
    ) -> None:
        for answer in manager.hook.forge_stop_reason(run=run, step=1):
            assert isinstance(answer, str)
            assert answer

    def test_its_state_survives_a_checkpoint(
        self,
        plugin: Component,
        manager: pluggy.PluginManager,
        run: RunContext,
        tell: Tell,
        short_run: tuple[events.Event, ...],
    ) -> None:
        tell(short_run[:-1])  # so that there is something to keep
        for state in manager.hook.forge_checkpoint_state(run=run):
            kept = json.loads(json.dumps(state))
            fresh = make_component(type(plugin), plugin.options.model_dump(exclude_unset=True))
            fresh.restore_state(kept)
            (again,) = build_manager([fresh]).hook.forge_checkpoint_state(run=run)
            assert json.loads(json.dumps(again)) == kept
