"""Tracing some steps: a timeline for Perfetto, and where the time of a step goes.

The profiler only watches. Numbers, random streams and the order of work stay as they are, so that
a traced run has the weights of one that was not.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from llmforge.interfaces import RunContext
from llmforge.run.reporting.reporter import Reporter
from llmforge.run.reporting.step_times import operators, step_times, table_lines
from llmforge.run.trace_range import TraceRange
from llmforge.rundir import RunDirectory
from llmforge.rundir.atomic import write_json

log = logging.getLogger("llmforge.run")

Lap = Callable[[str], None]

_SILENT = "6"  # the profiler's library writes to standard error that it starts and stops
_NAMES = {"logging": "tracker and journal"}
"""Parts whose lap has another name than the table."""


class StepTracer:
    """Traces nothing; what a loop has that nobody asked for a trace of."""

    def __enter__(self) -> StepTracer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def watched(self, lap: Lap) -> Lap:
        """Return ``lap``, which the loop calls after every part of a step."""
        return lap

    def step(self, taken: int) -> contextlib.AbstractContextManager[None]:
        """Return the context for the step after ``taken`` ones."""
        del taken
        return contextlib.nullcontext()


class ProfiledSteps(StepTracer):
    """Traces a range of steps with PyTorch's profiler, on this rank.

    On a GPU the parts are only told apart by waiting for it after each, in these steps alone.

    Args:
        steps: the range.
        folder: where the trace and its figures are written.
        device: of the engine.
        rank: of this process.
        reporter: shows the figures.
    """

    def __init__(
        self,
        steps: TraceRange,
        *,
        folder: Path,
        device: torch.device,
        rank: int,
        reporter: Reporter,
    ) -> None:
        self._steps = steps
        self._folder = folder
        self._device = device
        self._rank = rank
        self._reporter = reporter
        self._profile: torch.profiler.profile | None = None
        self._taken: list[int] = []
        self._seconds = 0.0
        self._parts: dict[str, float] = {}
        self._mark = 0.0
        self._backward = 0.0  # seconds since the last lap
        self._tracing = False

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._profile is not None:  # the run ends within the range
            self._finish()

    def watched(self, lap: Lap) -> Lap:
        """Return a lap that also counts into the table while a step is traced."""

        def both(part: str) -> None:
            if self._tracing:
                self._count(part)
            lap(part)

        return both

    @contextlib.contextmanager
    def _traced(self, number: int) -> Iterator[None]:
        if self._profile is None:
            os.environ.setdefault("KINETO_LOG_LEVEL", _SILENT)
            self._profile = torch.profiler.profile(activities=_activities(self._device))
            self._profile.start()
        begin = self._mark = self._now()
        self._tracing = True
        try:
            with _backward_timed(self), torch.profiler.record_function(f"step {number}"):
                yield
            self._seconds += self._now() - begin
            self._taken.append(number)
        finally:
            self._tracing = False
        if number == self._steps.last:
            self._finish()

    def step(self, taken: int) -> contextlib.AbstractContextManager[None]:
        """Return the context that traces the step after ``taken`` ones, if it is in the range."""
        number = taken + 1
        return self._traced(number) if number in self._steps else contextlib.nullcontext()

    def count_backward(self, seconds: float) -> None:
        """Count a backward pass, which is part of what the next lap calls computing."""
        self._backward += seconds

    def _count(self, part: str) -> None:
        now = self._now()
        spent, backward = now - self._mark, self._backward
        self._mark, self._backward = now, 0.0
        if part == "compute":
            part = "forward" if backward else "optimizer"
            self._parts["backward"] = self._parts.get("backward", 0.0) + backward
        part = _NAMES.get(part, part)
        self._parts[part] = self._parts.get(part, 0.0) + spent - backward

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def _finish(self) -> None:
        """Write the trace and its figures, and show these; a full disk costs them, not the run."""
        profile, self._profile = self._profile, None
        assert profile is not None
        profile.stop()
        if not self._taken:
            return
        name = f"steps-{self._taken[0]}-{self._taken[-1]}"
        figures: dict[str, Any] = {
            "steps": self._taken,
            "rank": self._rank,
            "device": str(self._device),
            **step_times(self._seconds, self._parts, steps=len(self._taken)),
            "operators": operators(
                profile.key_averages(),
                steps=len(self._taken),
                seconds=self._seconds,
                on_device=self._device.type == "cuda",
            ),
        }
        try:
            trace = self._folder / f"rank{self._rank}-{name}.pt.trace.json.gz"
            _export(profile, trace)
            write_json(self._folder / f"rank{self._rank}-{name}.json", figures)
        except (OSError, RuntimeError) as error:
            self._reporter.notice(f"the trace of {name} could not be written: {error}")
            return
        for line in table_lines(figures):
            self._reporter.say(line)
        self._reporter.say(f"trace: {trace}, for https://ui.perfetto.dev")


def open_tracer(
    steps: TraceRange | None,
    run: RunContext,
    *,
    device: torch.device,
    taken: int,
    last_step: int,
    reporter: Reporter,
) -> StepTracer:
    """Return what traces ``steps`` of a run; on other ranks than the leader, nothing does.

    Raises:
        UsageError: this start takes none of them.
    """
    if steps is None:
        return StepTracer()
    steps.require_ahead(taken=taken, last_step=last_step, stop_at=run.train.stop_at)
    if run.rank:
        return StepTracer()
    if steps.first <= taken:
        reporter.notice(f"steps to {taken} were taken already: tracing {taken + 1}:{steps.last}")
    return ProfiledSteps(
        steps,
        folder=RunDirectory(run.directory).traces,
        device=device,
        rank=run.rank,
        reporter=reporter,
    )


@contextlib.contextmanager
def _backward_timed(tracer: ProfiledSteps) -> Iterator[None]:
    """Time every backward pass: whatever engine or library starts one, it comes by here."""
    original = torch.autograd.backward
    inside = False

    def timed(*arguments: Any, **keywords: Any) -> None:
        nonlocal inside
        if inside:  # a block that is computed again
            return original(*arguments, **keywords)
        inside = True
        start = tracer._now()
        try:
            with torch.profiler.record_function("backward"):
                original(*arguments, **keywords)
        finally:
            inside = False
            tracer.count_backward(tracer._now() - start)

    torch.autograd.backward = timed
    try:
        yield
    finally:
        torch.autograd.backward = original


def _activities(device: torch.device) -> list[torch.profiler.ProfilerActivity]:
    kinds = torch.profiler.ProfilerActivity
    return [kinds.CPU, kinds.CUDA] if device.type == "cuda" else [kinds.CPU]


def _export(profile: torch.profiler.profile, path: Path) -> None:
    """Write the trace in one step: a viewer never finds half of it."""
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}-{path.name}")  # its ending says that it is gzip
    try:
        profile.export_chrome_trace(str(temporary))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
