"""``forge train --trace-steps``: what it writes and shows, and that it changes nothing else."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Reference
from forge_process import Workplace

PARTS = ["data", "forward", "backward", "optimizer", "checkpoint", "tracker and journal"]


def figures(workplace: Workplace, steps: str) -> dict[str, Any]:
    """Return what was saved of a trace."""
    text = (workplace.run.traces / f"rank0-steps-{steps}.json").read_text("utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workplace, str]:
    """A run whose steps 10 to 15 were traced, and what it printed."""
    place = tmp_path_factory.mktemp("traced") / "place"
    workplace = Workplace(place, {"train.precision": "fp32"})
    return workplace, workplace.train("--trace-steps", "10:15").output


def test_a_traced_run_ends_with_the_bits_of_one_that_was_not(
    traced: tuple[Workplace, str], reference: Reference
) -> None:
    assert traced[0].result() == reference("fp32").result()


def test_the_parts_of_a_step_are_told_apart_and_add_up(traced: tuple[Workplace, str]) -> None:
    found = figures(traced[0], "10-15")
    assert found["steps"] == [10, 11, 12, 13, 14, 15]
    parts = found["parts"]
    assert list(parts)[: len(PARTS)] == PARTS
    assert all(parts[name]["ms"] > 0 for name in PARTS)  # steps 12 and 15 are saved and logged
    assert sum(part["ms"] for part in parts.values()) == pytest.approx(found["step_ms"], rel=0.01)
    assert sum(part["share"] for part in parts.values()) == pytest.approx(1.0, abs=0.01)
    names = [operator["name"] for operator in found["operators"]]
    assert any("linear" in name or "mm" in name for name in names)


def test_the_timeline_has_every_traced_step_and_no_other(traced: tuple[Workplace, str]) -> None:
    (path,) = traced[0].run.traces.glob("*.pt.trace.json.gz")  # the name TensorBoard looks for
    with gzip.open(path, "rt", encoding="utf-8") as file:
        events = json.load(file)["traceEvents"]
    steps = {event["name"] for event in events if event["name"].startswith("step ")}
    assert steps == {f"step {number}" for number in range(10, 16)}
    assert sum(event["name"] == "backward" for event in events) == 12  # two micro-batches a step


def test_the_table_is_shown_once_the_steps_are_taken(traced: tuple[Workplace, str]) -> None:
    output = traced[1]
    assert "steps 10 to 15, a step on average (rank 0):" in output
    assert output.index("tracker and journal") < output.index("step 16/60")
    assert "profiler_start" not in output


def test_steps_of_a_resumed_run_are_counted_from_its_start(
    halfway: Workplace, tmp_path: Path
) -> None:
    workplace = halfway.copy(tmp_path / "resumed")
    before = workplace.run.record.read_bytes()
    refused = workplace.train_here("--trace-steps", "10:15", expect=2)
    assert "these steps were taken already, the next one is 32" in refused
    assert workplace.run.record.read_bytes() == before, "refused before anything was touched"
    output = workplace.train_here("--trace-steps", "30:33", "--set", "train.stop_at=36")
    assert "steps to 31 were taken already: tracing 32:33" in output
    assert figures(workplace, "32-33")["steps"] == [32, 33]
    workplace.train_here("--trace-steps", "40:50", "--set", "train.stop_at=42")
    assert figures(workplace, "40-42")["steps"] == [40, 41, 42]  # what there was of them


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ("15:10", "is not a range of steps"),
        ("0:3", "is not a range of steps"),
        ("ten", "is not a range of steps"),
        ("1:5000", "is too large to be looked at"),
        ("61:70", "the run ends with step 60"),
    ],
)
def test_a_range_that_cannot_be_traced_is_refused_before_anything_starts(
    workplace: Workplace, steps: str, message: str
) -> None:
    assert message in workplace.train_here("--trace-steps", steps, expect=2)
    assert not workplace.run.path.exists()


def test_a_completed_run_has_no_steps_to_trace(traced: tuple[Workplace, str]) -> None:
    output = traced[0].train_here("--trace-steps", "10:15", expect=2)
    assert "run tiny is completed, so there are no steps to trace" in output
