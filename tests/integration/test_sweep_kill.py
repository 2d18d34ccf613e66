"""Workers of a sweep killed at random instants: nothing is lost, nothing is done twice."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from postgres_server import postgres
from sqlalchemy.exc import OperationalError

from llmforge.errors import RunError
from llmforge.sweeps.database_retry import Enduring

SCRIPT = Path(__file__).with_name("sweep_under_fire.py")


def fire(
    folder: Path, *, workers: int, kills: int, sweeper: str = "random", study: str = ""
) -> dict[str, Any]:
    """Run the sweep with so many workers killed; return what came out."""
    arguments = [str(folder), str(workers), str(kills), "1", sweeper, *([study] if study else [])]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "worker:" not in done.stderr, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def trained(folder: Path) -> dict[str, int]:
    """Return how many steps were trained for each simulated run."""
    return {
        path.stem: json.loads(path.read_bytes())["trained"]
        for path in (folder / "simulated").glob("*.json")
    }


@pytest.mark.parametrize(
    ("sweeper", "kills"),
    [
        ("random", 10),
        pytest.param("random", 50, marks=pytest.mark.slow),
        pytest.param("optuna", 50, marks=pytest.mark.slow),
    ],
)
def test_one_worker_killed_again_and_again_comes_to_the_undisturbed_sweep(
    tmp_path: Path, sweeper: str, kills: int
) -> None:
    disturbed = fire(tmp_path / "a", workers=1, kills=kills, sweeper=sweeper)
    undisturbed = fire(tmp_path / "b", workers=1, kills=0, sweeper=sweeper)
    assert disturbed["killed"] == kills
    for kept, wanted in zip(disturbed["trials"], undisturbed["trials"], strict=True):
        for key in ("number", "parameters", "state", "value", "curve", "run"):
            assert kept[key] == wanted[key]
    states = [trial["state"] for trial in undisturbed["trials"]]
    assert len(states) == 12
    assert "pruned" in states
    assert trained(tmp_path / "a") == trained(tmp_path / "b")
    for trial in disturbed["trials"]:
        assert trial["completions"] == (trial["state"] == "completed")


@pytest.mark.parametrize(
    ("workers", "kills"),
    [
        (2, 15),
        pytest.param(2, 50, marks=pytest.mark.slow),
        pytest.param(4, 50, marks=pytest.mark.slow),
    ],
)
def test_several_workers_killed_at_random_lose_no_trial_and_repeat_none(
    tmp_path: Path, workers: int, kills: int
) -> None:
    assert_each_once(tmp_path, fire(tmp_path, workers=workers, kills=kills), kills=kills)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("initdb") is None, reason="needs PostgreSQL's server")
def test_the_same_holds_on_postgresql(tmp_path: Path) -> None:
    with postgres() as server:
        found = fire(tmp_path, workers=2, kills=50, study=server.url)
    assert_each_once(tmp_path, found, kills=50)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("initdb") is None, reason="needs PostgreSQL's server")
def test_a_database_that_crashes_and_comes_back_costs_no_trial(tmp_path: Path) -> None:
    with postgres() as server, ThreadPoolExecutor(1) as beside:
        sweep = beside.submit(fire, tmp_path, workers=2, kills=0, study=server.url)
        for _ in range(2):
            time.sleep(1.2)
            assert not sweep.done()
            server.crash()
            time.sleep(1)
            server.start()
        found = sweep.result()
    assert_each_once(tmp_path, found, kills=0)


def test_a_database_that_stays_away_is_told_by_its_name() -> None:
    class Away:
        def get_all_studies(self) -> None:
            raise OperationalError("SELECT", {}, Exception("connection refused"))

    with pytest.raises(RunError, match=r"db://host has not answered for 0 s: .*refused"):
        Enduring(Away(), name="db://host", patience=0.0).get_all_studies()


def assert_each_once(folder: Path, found: dict[str, Any], *, kills: int) -> None:
    """Check that every trial was done, and each step of it once."""
    trials = found["trials"]
    assert found["killed"] >= kills / 5
    assert [trial["number"] for trial in trials] == list(range(12))
    assert {trial["state"] for trial in trials} <= {"completed", "pruned"}
    assert len({trial["run"] for trial in trials}) == 12
    for trial in trials:
        assert trial["completions"] == (trial["state"] == "completed")
        steps = max(int(step) for step in trial["curve"])
        assert trained(folder)[trial["run"]] == steps
