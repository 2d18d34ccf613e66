"""Hooks of kinds and events that no run calls yet reach the component that implements them."""

from __future__ import annotations

from typing import Any

import pytest

from llmforge import Component, hookimpl
from llmforge.events import Event
from llmforge.interfaces import Dimension, Space
from llmforge.plugins import Notifier, build_manager, call_factory
from llmforge.testing import one_of_each_event


class Listener(Component, kind="tracker"):
    """Keeps the events it hears."""

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self.heard: list[Event] = []

    @hookimpl
    def forge_trial_start(self, event: Event) -> None:
        self.heard.append(event)

    @hookimpl
    def forge_trial_end(self, event: Event) -> None:
        self.heard.append(event)


@pytest.mark.parametrize(
    "hook",
    ["forge_trial_start", "forge_trial_end"],
)
def test_an_event_reaches_the_component_that_listens_for_it(hook: str) -> None:
    listener = Listener()
    notify = Notifier(build_manager([listener]), lambda *_: None)
    for event in one_of_each_event():
        if event.hook == hook:
            notify(event.hook, event=event)
    (heard,) = listener.heard
    assert heard.hook == hook


def test_forge_build_sweeper_is_given_the_space_the_direction_and_the_seed() -> None:
    class Search(Component, kind="sweep"):
        """Keeps what it was given."""

        @hookimpl
        def forge_build_sweeper(self, space: Space, direction: str, seed: int) -> Any:
            return (space, direction, seed)

    space = Space(
        dimensions=(Dimension(key="optimizer.adamw.lr", kind="float", low=1e-4, high=1e-2),)
    )
    built = call_factory(
        build_manager([Search()]),
        "forge_build_sweeper",
        space=space,
        direction="minimize",
        seed=3,
    )
    assert built == (space, "minimize", 3)
