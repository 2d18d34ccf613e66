"""Trackers that raise, hang or die, and a trainer or courier killed: training never notices."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import Reference
from forge_process import Workplace, stepping, write_text


@pytest.fixture
def tracked(workplace: Workplace, faults: str) -> Workplace:
    """A place where the trackers of the fault package can be chosen."""
    return dataclasses.replace(workplace, environment={"PYTHONPATH": faults})


def with_trackers(workplace: Workplace, *names: str, **settings: str) -> Workplace:
    """Return the place with trackers and keys of ``[tracker]``."""
    own = {"tracker.names": json.dumps(names)}
    own |= {f"tracker.{key}": value for key, value in settings.items()}
    return dataclasses.replace(workplace, settings={**workplace.settings, **own})


def notebook(workplace: Workplace) -> list[dict[str, Any]]:
    """Return what the tracker ``notebook`` was given."""
    path = workplace.run.trackers / "notebook" / "events.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def courier_of(workplace: Workplace) -> int:
    """Return the process id of the newest courier."""
    starts = [entry for entry in notebook(workplace) if entry["hook"] == "run_start"]
    return int(starts[-1]["pid"])


def is_alive(pid: int) -> bool:
    """Return whether a process exists and is no zombie."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def wait_until(holds: Any, seconds: float) -> bool:
    """Poll ``holds`` for at most ``seconds``."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def steps(entries: list[dict[str, Any]], hook: str) -> list[int]:
    """Return the steps of one hook's events, in the order of delivery."""
    return [entry["step"] for entry in entries if entry["hook"] == hook]


def check_complete(workplace: Workplace) -> None:
    """Check that the notebook has every row once and in order."""
    entries = notebook(workplace)
    rows = workplace.rows
    assert steps(entries, "metrics") == [row["step"] for row in rows]
    evaluated = [row["step"] for row in rows if "val/loss" in row]
    assert steps(entries, "eval_end") == evaluated
    for entry in entries:
        if entry["hook"] == "eval_end":
            (row,) = [row for row in rows if row["step"] == entry["step"]]
            assert entry["values"]["val/loss"] == row["val/loss"]
    assert entries[0]["hook"] == "run_start"
    assert entries[-1] == {"hook": "run_end", "state": "completed"}


def test_trackers_that_raise_and_hang_change_nothing_and_hold_up_nobody(
    tracked: Workplace, reference: Reference
) -> None:
    place = with_trackers(tracked, "notebook", "raiser", "sleeper", close_timeout="2")
    process = place.start()
    ended = place.run.root / ".completed" / "tiny.json"
    assert process.wait_for(lambda _: ended.exists())
    began = time.monotonic()
    output = process.finish(expect=0).output

    assert time.monotonic() - began < 7  # 2 s for the trackers, and the interpreter's end
    assert "tracker raiser failed: forge_run_start: ConnectionError: injected" in output
    assert "tracker sleeper: 0 events delivered" in output
    assert "tracker raiser is not ready: ConnectionError: injected" in output
    assert "Traceback" not in output
    check_complete(place)
    assert not is_alive(courier_of(place))
    assert place.result() == reference("fp32").result()


def test_a_hanging_tracker_does_not_delay_an_interruption(tracked: Workplace) -> None:
    place = with_trackers(tracked, "notebook", "sleeper")
    process = place.start()
    assert process.wait_for(stepping)
    time.sleep(0.3)
    process.process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    process.finish(expect=75)
    assert time.monotonic() - began < 10
    assert not is_alive(courier_of(place))
    assert notebook(place)[-1] == {"hook": "run_end", "state": "interrupted"}


def test_a_tracker_that_kills_the_courier_does_not_end_the_run(
    tracked: Workplace, reference: Reference
) -> None:
    place = with_trackers(tracked, "killer")
    output = place.train().output

    assert "it ended with code -9 and is started again" in output
    assert "Traceback" not in output
    assert "Exception ignored" not in output
    assert place.result() == reference("fp32").result()


@pytest.mark.slow
def test_a_killed_trainer_leaves_no_orphan_and_the_next_start_repeats_nothing(
    tracked: Workplace, reference: Reference
) -> None:
    place = with_trackers(tracked, "notebook", "tensorboard")
    process = place.start()
    assert process.wait_for(lambda _: len(place.checkpoints) > 1 and place.rows[-1]["step"] > 20)
    process.kill()
    courier = courier_of(place)
    assert wait_until(lambda: not is_alive(courier), 20)
    journalled = [json.loads(line) for line in place.run.journal.read_text().splitlines()]
    told = [event["step"] for event in journalled if event["hook"] == "forge_metrics"]
    assert steps(notebook(place), "metrics") == told  # drained, not dropped

    place.train()

    check_complete(place)
    assert place.result() == reference("fp32").result()
    by_tag = tensorboard_steps(place.run.trackers / "tensorboard")
    rows = place.rows
    assert by_tag["train/loss"] == [row["step"] for row in rows]
    assert by_tag["val/loss"] == [row["step"] for row in rows if "val/loss" in row]


def tensorboard_steps(directory: Path) -> dict[str, list[int]]:
    """Return the steps of every scalar, as TensorBoard's own reader finds them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    files = EventAccumulator(str(directory), {"scalars": 0}, purge_orphaned_data=False)
    files.Reload()
    return {tag: [event.step for event in files.Scalars(tag)] for tag in files.Tags()["scalars"]}


@pytest.mark.slow
def test_a_killed_courier_costs_no_event_and_repeats_at_most_the_one_under_way(
    tracked: Workplace, reference: Reference
) -> None:
    place = with_trackers(tracked, "notebook")
    place = dataclasses.replace(
        place, environment={**place.environment, "FAULT_NOTEBOOK_PAUSE": "0.05"}
    )
    process = place.start("--set", "train.stop_at=31")
    assert process.wait_for(lambda _: len(notebook(place)) > 4)
    os.kill(courier_of(place), signal.SIGKILL)
    process.finish(expect=0)
    before = len(notebook(place))

    place.train()

    entries = notebook(place)
    seen = Counter((entry["hook"], entry["step"]) for entry in entries if "step" in entry)
    repeated = [key for key, count in seen.items() if count > 1]
    assert len(repeated) <= 1, repeated
    assert set(steps(entries, "metrics")) == {row["step"] for row in place.rows}
    later = steps(entries[before:], "metrics")
    assert all(first < second for first, second in itertools.pairwise(later))
    assert place.result() == reference("fp32").result()


def test_on_error_raise_tells_before_the_first_step_that_nobody_answers(tracked: Workplace) -> None:
    output = with_trackers(tracked, "raiser", on_error="raise").train(expect=2).output

    assert "tracker.raiser: ConnectionError: injected by forge_faults: nobody answers" in output
    assert "Traceback" not in output
    assert not tracked.checkpoints


def test_on_error_raise_ends_the_run_after_a_checkpoint(
    tracked: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAULT_SWITCH", str(tracked.path / "switched-on"))
    never = {"checkpoint.every": "1000", "eval.every": "1000"}
    rare = dataclasses.replace(tracked, settings=never)
    output = (
        with_trackers(rare, "switch", on_error="raise", close_timeout="1").train(expect=1).output
    )

    assert "tracker switch failed" in output
    assert "Traceback" not in output
    record = rare.record
    assert record["state"] == "failed"
    saved = [f"step-{record['step']:08d}"] if record["step"] else []
    assert [path.name for path in rare.checkpoints] == saved

    going_on = with_trackers(rare, "switch", on_error="warn", close_timeout="1")
    assert going_on.train_here("--set", "train.stop_at=59")
    assert rare.record["step"] == 59


def test_a_tracker_hears_nothing_of_a_start_that_was_never_announced(tracked: Workplace) -> None:
    place = with_trackers(tracked, "notebook", "tensorboard")
    (place.path / "train.txt").write_text("Too little.\n")
    assert "DataError" not in place.train_here(expect=1)  # ends while the data is prepared
    assert notebook(place) == []

    write_text(place.path / "train.txt", lines=400, seed=1)
    place.train_here("--allow-data-change", "--set", "train.stop_at=9")
    entries = notebook(place)
    assert entries[0]["hook"] == "run_start"
    assert steps(entries, "metrics") == [row["step"] for row in place.rows]
    assert tensorboard_steps(place.run.trackers / "tensorboard")["train/loss"]


def test_what_a_callback_counts_survives_a_kill(tracked: Workplace) -> None:
    counted = dataclasses.replace(tracked, settings={"callback.names": '["counter"]'})
    straight = dataclasses.replace(counted, path=tracked.path.with_name("straight"))
    straight.train_here("--set", "train.stop_at=40")
    process = counted.start("--set", "train.stop_at=40")
    assert process.wait_for(lambda _: len(counted.checkpoints) > 1)
    process.kill()
    counted.train_here("--set", "train.stop_at=40")
    assert counted.rows[-1]["counter/rows"] > 10
    assert counted.result() == straight.result()
