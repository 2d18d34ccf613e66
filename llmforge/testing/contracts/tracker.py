"""The contracts of the kinds ``tracker`` and ``callback``: components that receive events."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from llmforge import events
from llmforge.component import Component
from llmforge.interfaces import RunContext
from llmforge.plugins import Notifier, build_manager
from llmforge.testing.context import make_component
from llmforge.testing.contracts.base import Contract
from llmforge.testing.stand_ins import one_of_each_event

Tell = Callable[[Iterable[events.Event]], None]

ODD_EVENTS: Sequence[events.Event] = (
    events.MetricsLogged(step=11, values={}, time=0.0),
    events.MetricsLogged(
        step=12,
        values={"train/loss": math.nan, "grad_norm": math.inf, "x": -math.inf, "y": 1e300},
        time=0.0,
    ),
    events.MetricsLogged(step=12, values={"a name/with spaces \u2013 ü": 1.0, "": 2.0}, time=1e12),
    events.EvaluationEnded(step=12, split="validation", values={}, time=0.0),
    events.HistogramsLogged(step=12, values={"empty": {"edges": [], "counts": []}}),
    events.SamplesGenerated(step=12, samples=()),
    events.SamplesGenerated(step=12, samples=({"prompt": "", "text": "\x00\ufffd\n" * 200},)),
    events.ArtifactWritten(name="lost", path="plots/not-there.png", type="plot"),
)


class EventsContract(Contract):
    """What holds for every component that receives events.

    Attributes:
        seconds: all of a short run's events must be taken in this time.
    """

    seconds = 30.0

    @pytest.fixture
    def tell(self, plugin: Component) -> Tell:
        """A function that tells the component events as the core does; failures fail the test."""
        return self._teller(plugin)

    def _teller(self, plugin: Component) -> Tell:
        failures: list[str] = []
        notify = Notifier(
            build_manager([plugin]),
            lambda _, hook, error: failures.append(f"{hook}: {error!r}"),
        )

        def deliver(told: Iterable[events.Event]) -> None:
            for event in told:
                notify(event.hook, event=event)

        def tell(told: Iterable[events.Event]) -> None:
            thread = threading.Thread(target=deliver, args=(told,), daemon=True)
            thread.start()
            thread.join(self.seconds)
            assert not thread.is_alive(), f"not done after {self.seconds} seconds"
            assert failures == []

        return tell

    @pytest.fixture
    def short_run(self, run: RunContext) -> tuple[events.Event, ...]:
        """The events of a short run."""
        return one_of_each_event(str(run.directory))

    def test_it_takes_every_event(self, tell: Tell, short_run: tuple[events.Event, ...]) -> None:
        tell(short_run)

    def test_it_survives_odd_values(self, tell: Tell, short_run: tuple[events.Event, ...]) -> None:
        tell([short_run[0], *ODD_EVENTS, short_run[-1]])

    def test_a_run_may_end_before_it_logged_anything(
        self, tell: Tell, short_run: tuple[events.Event, ...]
    ) -> None:
        tell([short_run[0], short_run[-1]])

    def test_a_resumed_run_goes_on_with_a_fresh_instance(
        self, plugin: Component, tell: Tell, short_run: tuple[events.Event, ...]
    ) -> None:
        started = short_run[0]
        assert isinstance(started, events.RunStarted)
        tell(short_run[:5])  # killed: no forge_run_end
        fresh = make_component(type(plugin), plugin.options.model_dump(exclude_unset=True))
        fresh.name = plugin.name
        self._teller(fresh)([replace(started, restart=1, resumed_from=10), *short_run[1:]])

    def test_the_start_may_be_told_again(
        self, tell: Tell, short_run: tuple[events.Event, ...]
    ) -> None:
        tell([short_run[0], *short_run])


class TrackerContract(EventsContract):
    """Takes every event of a run, within a bound, again after a resume, and writes in its place."""

    def test_it_takes_several_rows_at_once_if_it_says_so(
        self, plugin: Component, tell: Tell, short_run: tuple[events.Event, ...]
    ) -> None:
        take = getattr(plugin, "take_metrics", None)
        if take is None:
            return
        tell(short_run[:1])
        rows = [
            events.MetricsLogged(step=step, values={"train/loss": 1.0, "x": math.nan}, time=step)
            for step in range(1, 101)
        ]
        take(rows)
        tell(short_run[-1:])

    def test_it_writes_only_under_the_trackers_of_the_run(
        self,
        tell: Tell,
        short_run: tuple[events.Event, ...],
        run: RunContext,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        elsewhere = tmp_path / "working-directory"
        elsewhere.mkdir()
        monkeypatch.chdir(elsewhere)
        tell(short_run)
        assert list(elsewhere.iterdir()) == []
        assert {path.name for path in run.directory.iterdir()} <= {"trackers"}
