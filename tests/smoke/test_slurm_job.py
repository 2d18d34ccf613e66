"""The batch script of ``forge launch slurm`` trains, saves when it is told to, and continues."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Reference
from forge_process import Workplace, environment
from slurm_stand_ins import slurm_environment


class SlurmJob:
    """A batch script in a place of its own, and the environment it runs in."""

    def __init__(self, path: Path, *, tasks: int) -> None:
        self.workplace = Workplace(path / "place")
        forge = f'exec "{sys.executable}" -m llmforge "$@"\n'
        slurm = slurm_environment(path / "bin", {"forge": forge})
        names = ("PATH", "SLURM_JOB_ID")
        self.environment = {
            **environment(self.workplace),
            **{name: slurm[name] for name in names},
            "STAND_IN_TASKS": str(tasks),
        }
        self.workplace.forge_here(
            *("launch", "slurm", "recipe.toml", "--gpus-per-node", "0", "--output", "job.sh")
        )

    def start(self) -> subprocess.Popen[bytes]:
        """Start the script as Slurm does on the first node."""
        with (self.workplace.path / "job.log").open("ab") as log:
            return subprocess.Popen(
                ["bash", "job.sh"],
                cwd=self.workplace.path,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        """Everything printed so far."""
        return (self.workplace.path / "job.log").read_text(encoding="utf-8")


@pytest.mark.parametrize("tasks", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_an_interrupted_job_is_requeued_and_goes_on_to_the_same_end(
    tmp_path: Path, reference: Reference, tasks: int
) -> None:
    job = SlurmJob(tmp_path, tasks=tasks)
    place = job.workplace
    process = job.start()
    try:
        while not place.checkpoints:
            assert process.poll() is None, job.log
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=120) == 75, job.log
    assert (place.path / "scontrol.txt").read_text() == "requeue 4711\n"
    assert place.record["state"] == "interrupted"

    assert job.start().wait(timeout=200) == 0, job.log
    assert (place.path / "scontrol.txt").read_text() == "requeue 4711\n"
    assert f"x {tasks} rank" in job.log
    straight = reference("fp32")
    assert place.rows[-1]["val/loss"] == pytest.approx(straight.rows[-1]["val/loss"], rel=1e-3)
    if tasks == 1:
        assert place.result() == straight.result()
