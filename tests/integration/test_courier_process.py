"""The real courier process: its start, its close, and its end when the trainer is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmforge.courier import Courier, JournalWriter
from llmforge.errors import PluginError
from llmforge.events import MetricsLogged, RunEnded, RunStarted
from llmforge.rundir import RunDirectory

RECIPE = """\
[model]
name = "transformer"
[data]
name = "text"
[data.text]
train = "x.txt"
[train]
max_steps = 5
[tracker]
names = ["tensorboard"]
"""


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    directory = RunDirectory(tmp_path / "runs" / "mine")
    directory.path.mkdir(parents=True)
    directory.recipe.write_text(RECIPE)
    return directory


def write_journal(run: RunDirectory, steps: int) -> None:
    journal = JournalWriter(run.journal)
    where = str(run.path)
    journal.append(RunStarted(run_id="mine", attempt=1, restart=1, directory=where, config={}))
    for step in range(1, steps + 1):
        journal.append(MetricsLogged(step=step, values={"loss": 1.0}, time=0.0))
    journal.append(RunEnded(state="completed", reason="", step=steps, metrics={}))
    journal.close()


def test_it_delivers_tells_what_and_ends(run: RunDirectory) -> None:
    failures: list[tuple[str, str]] = []
    courier = Courier(run, on_error=lambda *failure: failures.append(failure))
    assert courier.problems() == []
    write_journal(run, steps=50)
    viewer = f"tensorboard --logdir {run.trackers / 'tensorboard'}"
    assert courier.close(20) == {"tensorboard": {"delivered": 52, "pending": 0, "link": viewer}}
    assert failures == []
    assert courier._process.returncode == 0
    assert list((run.trackers / "tensorboard").iterdir())


def test_a_recipe_it_cannot_use_is_a_problem_told_before_the_run(run: RunDirectory) -> None:
    run.recipe.write_text(RECIPE.replace("tensorboard", "tensorbored"))
    courier = Courier(run, on_error=lambda *_: None)
    problems = courier.problems()
    courier.close(1)
    assert len(problems) == 1
    assert "tensorbored" in problems[0].message


def test_one_killed_before_it_is_ready_is_an_error_that_names_its_log(run: RunDirectory) -> None:
    courier = Courier(run, on_error=lambda *_: None)
    courier.kill()
    with pytest.raises(PluginError, match="ended with code -9 before the run started") as raised:
        courier.problems()
    assert "courier.log" in raised.value.remedy
    assert courier.close(1) is None


def test_one_killed_later_is_noticed_at_the_close_which_stays_short(run: RunDirectory) -> None:
    courier = Courier(run, on_error=lambda *_: None)
    assert courier.problems() == []
    courier.kill()
    began = time.monotonic()
    assert courier.close(30) is None
    assert time.monotonic() - began < 5


def test_stop_signals_of_the_process_group_do_not_end_it(run: RunDirectory) -> None:
    courier = Courier(run, on_error=lambda *_: None)
    assert courier.problems() == []
    os.kill(courier._process.pid, signal.SIGTERM)
    os.kill(courier._process.pid, signal.SIGINT)
    write_journal(run, steps=3)
    assert courier.close(20)["tensorboard"]["delivered"] == 5


TRAINER = """\
import sys, time
from pathlib import Path
from llmforge.courier import Courier
from llmforge.rundir import RunDirectory

courier = Courier(RunDirectory(Path(sys.argv[1])), on_error=lambda *_: None)
assert courier.problems() == []
print(courier._process.pid, flush=True)
time.sleep(600)
"""


def test_it_outlives_a_killed_trainer_just_long_enough(run: RunDirectory) -> None:
    trainer = subprocess.Popen(
        [sys.executable, "-c", TRAINER, run.path], stdout=subprocess.PIPE, text=True
    )
    assert trainer.stdout is not None
    courier = int(trainer.stdout.readline())
    write_journal(run, steps=20)
    trainer.kill()
    trainer.communicate()

    deadline = time.monotonic() + 20
    while Path(f"/proc/{courier}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{courier}").exists()
    cursor = (run.cursors / "tracker-tensorboard.json").read_text()
    assert '"delivered": 22' in cursor


def test_the_next_courier_waits_for_the_one_before(run: RunDirectory) -> None:
    first = Courier(run, on_error=lambda *_: None)
    assert first.problems() == []
    second = Courier(run, on_error=lambda *_: None)
    write_journal(run, steps=5)
    assert first.close(20)["tensorboard"]["delivered"] == 7
    assert second.problems() == []
    assert second.close(20)["tensorboard"]["delivered"] == 7
