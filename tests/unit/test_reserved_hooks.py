"""Hooks of kinds and events that no run calls yet reach the component that implements them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from llmforge import Component, hookimpl
from llmforge.events import Event
from llmforge.plugins import Notifier, build_manager, call_factory
from llmforge.testing import one_of_each_event


class Listener(Component, kind="tracker"):
    """Keeps the events it hears."""

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self.heard: list[Event] = []

    @hookimpl
    def forge_checkpoint_uploaded(self, event: Event) -> None:
        self.heard.append(event)

    @hookimpl
    def forge_trial_start(self, event: Event) -> None:
        self.heard.append(event)

    @hookimpl
    def forge_trial_end(self, event: Event) -> None:
        self.heard.append(event)


@pytest.mark.parametrize(
    "hook",
    ["forge_checkpoint_uploaded", "forge_trial_start", "forge_trial_end"],
)
def test_an_event_reaches_the_component_that_listens_for_it(hook: str) -> None:
    listener = Listener()
    notify = Notifier(build_manager([listener]), lambda *_: None)
    for event in one_of_each_event():
        if event.hook == hook:
            notify(event.hook, event=event)
    (heard,) = listener.heard
    assert heard.hook == hook


def test_forge_build_sweeper_is_given_the_space_and_the_history() -> None:
    class Search(Component, kind="sweep"):
        """Counts what was tried."""

        @hookimpl
        def forge_build_sweeper(
            self,
            space: Mapping[str, Any],
            objective: str,
            seed: int,
            history: Iterable[Mapping[str, Any]],
        ) -> Any:
            return (sorted(space), objective, seed, len(list(history)))

    built = call_factory(
        build_manager([Search()]),
        "forge_build_sweeper",
        space={"optimizer.adamw.lr": [1e-3, 1e-4]},
        objective="val/loss",
        seed=3,
        history=iter([{"trial_id": "t1"}]),
    )
    assert built == (["optimizer.adamw.lr"], "val/loss", 3, 1)
