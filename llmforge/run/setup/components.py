"""The components that live in the training process, asked together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmforge.component import Component
from llmforge.errors import Problem
from llmforge.interfaces import RunContext
from llmforge.plugins import build_manager, collect
from llmforge.run.plan import Plan


class Components:
    """Fresh instances of the plan's components, and the run's one plugin manager."""

    def __init__(self, plan: Plan) -> None:
        self._all: list[Component] = [
            component for selected in plan.components().values() for component in selected
        ]
        if plan.trial is not None:
            self._all.append(plan.trial.watcher)
        self.manager = build_manager(self._all)

    def preflight(self, run: RunContext) -> list[Problem]:
        """Return everything that would stop a component later."""
        problems = [problem for item in self._all for problem in item.missing_packages()]
        for found in self.manager.hook.forge_preflight(run=run):
            problems += found
        return problems

    def restore(self, states: Mapping[str, Any]) -> None:
        """Give each component back the state it had in the checkpoint."""
        for component in self._all:
            saved = states.get(f"{component.kind}:{component.name}")
            if saved is not None:
                component.restore_state(saved)

    def state(self, run: RunContext) -> dict[str, Any]:
        """Return the components' state by ``kind:name``, for a checkpoint."""
        return collect(self.manager, "forge_checkpoint_state", run=run)

    def extra_metrics(self, run: RunContext, step: int) -> dict[str, float]:
        """Return what components want logged at ``step``."""
        values: dict[str, float] = {}
        for found in self.manager.hook.forge_extra_metrics(run=run, step=step):
            values |= found
        return values

    def stop_reason(self, run: RunContext, step: int) -> str | None:
        """Return why a component wants the run to stop, or None."""
        return next(iter(self.manager.hook.forge_stop_reason(run=run, step=step)), None)
