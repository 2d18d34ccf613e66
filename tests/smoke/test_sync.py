"""``forge runs sync``: what a tracker missed is delivered later, once, on a run nobody trains."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Reference
from forge_process import Workplace, stepping

RUN_STEPS = {"train.max_steps": "12", "checkpoint.every": "6", "eval.every": "6"}


@pytest.fixture
def switch(tmp_path: Path) -> Path:
    """The file that lets the tracker ``switch`` take events."""
    return tmp_path / "switched-on"


@pytest.fixture
def place(workplace: Workplace, faults: str, switch: Path) -> Workplace:
    """A short run with a tracker that can be switched on, and one that always works."""
    return dataclasses.replace(
        workplace,
        environment={"PYTHONPATH": faults, "FAULT_SWITCH": str(switch)},
        settings={
            **RUN_STEPS,
            "tracker.names": '["notebook", "switch"]',
            "tracker.close_timeout": "1",
        },
    )


def told(place: Workplace, tracker: str) -> list[dict[str, Any]]:
    """Return what a tracker wrote down, less the process it ran in."""
    path = place.run.trackers / tracker / "events.jsonl"
    entries = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for entry in entries:
        entry.pop("pid", None)
    return entries


def test_what_a_tracker_missed_is_delivered_later_and_once(place: Workplace, switch: Path) -> None:
    output = place.train_here()
    waiting = len(place.run.journal.read_text().splitlines())
    assert "tracker notebook: " in output
    assert f"tracker switch: 0 events delivered, {waiting} still in the journal" in output
    assert told(place, "switch") == []
    status = place.forge_here("runs", "status", "tiny")
    assert f"{waiting} events wait for switch: forge runs sync tiny" in status
    body = json.loads(place.forge_here("runs", "status", "tiny", "--json"))
    assert body["pending_events"] == {"switch": waiting}

    late = place.forge_here("runs", "sync", "tiny", "--timeout", "1", expect=1)
    assert f"switch: 0 events delivered, 0 in all, {waiting} still wait" in late
    assert "injected by forge_faults: switched off" in late
    assert "Traceback" not in late

    switch.touch()
    done = place.forge_here("runs", "sync", "tiny")
    assert f"switch: {waiting} events delivered, {waiting} in all" in done
    assert f"notebook: 0 events delivered, {waiting} in all" in done
    assert told(place, "switch") == told(place, "notebook")
    assert "forge runs sync" not in place.forge_here("runs", "status", "tiny")

    again = place.forge_here("runs", "sync", "tiny")
    assert f"switch: 0 events delivered, {waiting} in all" in again
    assert told(place, "switch") == told(place, "notebook")


def test_a_tracker_the_run_never_had_gets_all_of_it(place: Workplace, switch: Path) -> None:
    alone = dataclasses.replace(place, settings={**place.settings, "tracker.names": '["notebook"]'})
    alone.train_here()
    switch.touch()
    output = alone.forge_here("runs", "sync", "tiny", "--tracker", "switch")
    assert "switch: " in output
    assert "notebook" not in output
    assert told(alone, "switch") == told(alone, "notebook")


def test_a_run_that_is_being_trained_is_left_alone(place: Workplace) -> None:
    process = dataclasses.replace(
        place, settings={**place.settings, "train.max_steps": "100000"}
    ).start()
    try:
        assert process.wait_for(stepping)
        assert "being trained" in place.forge_here("runs", "sync", "tiny", expect=3)
    finally:
        process.kill()


def test_a_run_without_trackers_says_so(place: Workplace) -> None:
    dataclasses.replace(place, settings={**place.settings, "tracker.names": "[]"}).train_here()
    output = place.forge_here("runs", "sync", "tiny", expect=2)
    assert "run tiny has no trackers" in output
    assert "--tracker NAME" in output


def test_the_start_is_told_where_the_run_lies_now(place: Workplace, switch: Path) -> None:
    place.train_here()
    elsewhere = place.path.with_name("elsewhere")
    place.path.rename(elsewhere)
    moved = dataclasses.replace(place, path=elsewhere)
    switch.touch()
    moved.forge_here("runs", "sync", "tiny", "--tracker", "switch")
    assert told(moved, "switch") == told(moved, "notebook")
    assert not place.path.exists()


@pytest.mark.slow
def test_a_tracker_that_hangs_when_it_closes_costs_its_bound_and_nothing_else(
    place: Workplace, reference: Reference
) -> None:
    whole = dataclasses.replace(
        place,
        settings={"tracker.names": '["notebook", "never-ends"]', "tracker.close_timeout": "1"},
    )
    output = whole.train().output
    assert "tracker never-ends: " in output
    assert ", 1 still in the journal" in output
    assert told(whole, "notebook")[-1] == {"hook": "run_end", "state": "completed"}
    assert whole.result() == reference("fp32").result()
