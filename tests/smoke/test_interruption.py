"""SIGTERM and Ctrl-C in every phase: exit 75 soon, nothing lost, the same result in the end."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Reference
from forge_process import (
    ForgeProcess,
    Workplace,
    finishing,
    handles_signals,
    logged,
    saving,
    stepping,
    tokenising,
)

EXIT_INTERRUPTED = 75
BOUND_SECONDS = 10.0

Instant = Callable[[ForgeProcess], bool]

PHASES: dict[str, tuple[Instant, float]] = {
    "importing": (handles_signals, 2.0),
    "opening the data": (logged("preparing data"), 0.02),
    "training the tokenizer": (logged("preparing data"), 0.3),
    "tokenising": (tokenising, 0.02),
    "stepping": (stepping, 0.5),
    "evaluating": (logged("evaluating at step"), 0.005),
    "saving": (saving, 0.005),
    "generating": (logged("generating samples"), 0.05),
    "finishing": (finishing, 0.1),
}
"""An instant by name, and the longest random wait after it, in seconds."""


def interrupt(workplace: Workplace, phase: str, *, draw: random.Random) -> bool:
    """Stop a start of the run in ``phase`` and check how it ends; False when it was done before."""
    instant, longest = PHASES[phase]
    process = workplace.start()
    if not process.wait_for(instant):
        process.finish(expect=0)
        return False
    time.sleep(draw.uniform(0.0, longest))
    process.process.send_signal(draw.choice([signal.SIGTERM, signal.SIGINT]))
    began = time.monotonic()
    code = process.process.wait(timeout=60)
    took = time.monotonic() - began
    if code == 0:  # the signal came when all was done
        assert (workplace.run.root / ".completed" / f"{workplace.run.id}.json").exists()
        return False
    assert code == EXIT_INTERRUPTED, f"{phase}: exit code {code}\n{process.output}"
    assert took < BOUND_SECONDS, f"{phase}: {took:.1f} s\n{process.output}"
    assert "Traceback" not in process.output
    if workplace.run.record.exists() and stepping(process):
        record = workplace.record
        assert record["state"] == "interrupted", record["exit_reason"]
        newest = workplace.checkpoints[-1].name if workplace.checkpoints else "step-00000000"
        assert newest == f"step-{record['step']:08d}", "steps were taken that no checkpoint has"
    return True


def interrupt_in_each(workplace: Workplace, phases: list[str], *, seed: int) -> int:
    """Interrupt one run in ``phases``, one start each, and finish it; return the interruptions."""
    draw = random.Random(seed)
    stopped = 0
    for phase in phases:
        if not interrupt(workplace, phase, draw=draw):
            return stopped
        stopped += 1
    workplace.train()
    return stopped


def test_an_interrupted_run_ends_as_one_never_interrupted(
    tmp_path: Path, reference: Reference
) -> None:
    workplace = Workplace(tmp_path, {"train.precision": "bf16"})
    phases = ["importing", "training the tokenizer", "evaluating", "saving", "generating"]
    assert interrupt_in_each(workplace, phases, seed=5) >= 3
    assert workplace.result() == reference("bf16").result()


SLOW_IMPORT = """
import sys, time
from pathlib import Path


class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "llmforge.cli.app":
            Path("importing").touch()
            time.sleep(60)


sys.meta_path.insert(0, Slow())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_the_command_line_is_imported_asks_for_the_queue_too(
    workplace: Workplace, number: int
) -> None:
    (workplace.path / "sitecustomize.py").write_text(SLOW_IMPORT)
    inherited = os.environ.get("PYTHONPATH", "")
    paths = os.pathsep.join([str(workplace.path), *filter(None, [inherited])])
    process = dataclasses.replace(workplace, environment={"PYTHONPATH": paths}).start()
    assert process.wait_for(lambda _: (workplace.path / "importing").exists())
    process.process.send_signal(number)
    output = process.finish(expect=EXIT_INTERRUPTED, within=BOUND_SECONDS).output
    name = signal.Signals(number).name
    assert output == f"forge: stopped by {name} before anything was started\n"


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_signals_at_twenty_instants_leave_no_trace(tmp_path: Path, reference: Reference) -> None:
    draw = random.Random(3)
    stopped = 0
    number = 0
    while stopped < 20:
        number += 1
        workplace = Workplace(tmp_path / str(number), {"train.precision": "fp32"})
        middle = draw.choices(["importing", "stepping", "evaluating", "saving"], k=4)
        phases = [*draw.sample([*PHASES][:4], k=3), *middle, "generating", "finishing"]
        stopped += interrupt_in_each(workplace, phases, seed=number)
        assert workplace.result() == reference("fp32").result()
