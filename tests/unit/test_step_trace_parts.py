"""Tracing steps without a run: ranges, figures, and what a step that fails leaves behind."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
import torch
from checkpoint_drafts import save

from llmforge.errors import UsageError
from llmforge.run.reporting.reporter import Reporter
from llmforge.run.reporting.step_times import step_times, table_lines
from llmforge.run.setup.run_record import require_trace_ahead
from llmforge.run.trace_range import TraceRange, parse_range
from llmforge.run.training.step_trace import ProfiledSteps, StepTracer, open_tracer
from llmforge.rundir import RunDirectory
from llmforge.testing import run_context

if TYPE_CHECKING:
    from llmforge.run.plan import Plan

CPU = torch.device("cpu")


def tracer(folder: Path, first: int, last: int) -> ProfiledSteps:
    return ProfiledSteps(
        TraceRange(first, last), folder=folder, device=CPU, rank=0, reporter=Reporter()
    )


def test_one_number_is_a_range_of_one_step() -> None:
    assert parse_range("7") == TraceRange(7, 7)
    assert parse_range(None) is None


def test_a_range_past_the_end_taken_or_beyond_stop_at_is_refused() -> None:
    steps = TraceRange(10, 15)
    steps.require_ahead(taken=14, last_step=10)
    with pytest.raises(UsageError, match="the run ends with step 9"):
        steps.require_ahead(taken=0, last_step=9)
    with pytest.raises(UsageError, match="the next one is 16"):
        steps.require_ahead(taken=15, last_step=20)
    with pytest.raises(UsageError, match="stop_at"):
        steps.require_ahead(taken=0, last_step=20, stop_at=9)


def test_time_of_no_part_is_other_and_every_known_part_has_a_line() -> None:
    found = step_times(2.0, {"forward": 0.5, "evaluation": 0.5}, steps=2)
    assert found["step_ms"] == 1000.0
    assert found["parts"]["forward"] == {"ms": 250.0, "share": 0.25}
    assert found["parts"]["data"]["ms"] == 0.0
    assert list(found["parts"])[-2:] == ["evaluation", "other"]
    assert found["parts"]["other"]["share"] == 0.5
    lines = table_lines({"steps": [1, 2], "rank": 0, "operators": [], **found})
    assert lines[-2].split() == ["step", "1,000.00", "ms", "100.0%"]


def test_backward_is_told_from_forward_and_only_while_a_step_is_traced(tmp_path: Path) -> None:
    laps: list[str] = []
    original = torch.autograd.backward
    weight = torch.ones(4, requires_grad=True)
    with tracer(tmp_path / "traces", 2, 2) as steps:
        lap = steps.watched(laps.append)
        for taken in range(3):
            with steps.step(taken):
                (weight * 2).sum().backward()
                lap("compute")
                lap("compute")
            assert torch.autograd.backward is original
    assert laps == ["compute"] * 6
    figures = json.loads((tmp_path / "traces" / "rank0-steps-2-2.json").read_text("utf-8"))
    assert all(figures["parts"][part]["ms"] > 0 for part in ("forward", "backward", "optimizer"))


def test_a_step_that_fails_leaves_nothing_patched_and_no_trace(tmp_path: Path) -> None:
    original = torch.autograd.backward
    steps = tracer(tmp_path / "traces", 1, 3)
    with pytest.raises(torch.OutOfMemoryError), steps, steps.step(0):
        raise torch.OutOfMemoryError
    assert torch.autograd.backward is original
    assert not (tmp_path / "traces").exists()


def test_a_trace_that_cannot_be_written_costs_the_trace_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "traces").write_text("in the way")
    with tracer(tmp_path / "traces", 1, 1) as steps, steps.step(0):
        pass
    assert "could not be written" in caplog.text


def test_only_the_leader_traces(tmp_path: Path) -> None:
    found = {
        rank: type(
            open_tracer(
                TraceRange(1, 2),
                run_context(tmp_path, rank=rank, world_size=2),
                device=CPU,
                taken=0,
                last_step=5,
                reporter=Reporter(),
            )
        )
        for rank in (0, 1)
    }
    assert found == {0: ProfiledSteps, 1: StepTracer}


def test_the_newest_sound_checkpoint_says_which_steps_were_taken(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "x")
    directory.checkpoints.mkdir(parents=True)
    four, _ = save(directory.checkpoints, 4, 8)
    plan = cast("Plan", SimpleNamespace(directory=directory, trace=TraceRange(5, 7)))
    with pytest.raises(UsageError, match="the next one is 9"):
        require_trace_ahead(plan, resume=None)
    require_trace_ahead(plan, resume=four.path)
    for file in (directory.checkpoints / "step-00000008").glob("*.safetensors"):
        file.write_bytes(b"damaged")  # so that training goes back to step 4
    require_trace_ahead(plan, resume=None)
    plan = cast("Plan", SimpleNamespace(directory=directory, trace=TraceRange(2, 4)))
    with pytest.raises(UsageError, match="the next one is 5"):
        require_trace_ahead(plan, resume=None)
