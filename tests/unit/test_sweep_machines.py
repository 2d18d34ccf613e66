"""What workers see of each other: processes here, signs of life elsewhere, shares of a machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

import pytest

from llmforge.errors import UsageError
from llmforge.sweeps import worker as worker_module
from llmforge.sweeps.controller import shares, visible_gpus
from llmforge.sweeps.liveness import is_gone, this_process
from llmforge.sweeps.trials import Attempt
from llmforge.sweeps.worker import Lives


def test_a_process_that_lives_is_not_gone_and_one_that_ended_is() -> None:
    assert is_gone(this_process()) is False
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    known = {**this_process(), "pid": child.pid, "started": time.time()}
    assert is_gone(known) is False
    child.kill()
    time.sleep(0.2)
    assert is_gone(known) is True, "a zombie works on nothing"
    child.wait()
    assert is_gone(known) is True


def test_another_process_under_the_same_number_is_not_the_one_that_was() -> None:
    earlier = {**this_process(), "started": time.time() - 10_000}
    assert is_gone(earlier) is True


def test_a_process_of_another_machine_or_container_cannot_be_seen() -> None:
    assert is_gone({**this_process(), "machine": "elsewhere"}) is None


def test_a_worker_elsewhere_is_dead_after_a_lease_without_a_sign(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [100.0]
    monkeypatch.setattr(worker_module.time, "monotonic", lambda: now[0])
    lives = Lives(lease_seconds=60)
    attempt = Attempt(entry=1, number=0, token="t", worker={"machine": "elsewhere"}, beat=5.0)
    assert not lives.is_dead(attempt)
    now[0] += 50
    assert not lives.is_dead(replace(attempt, beat=6.0)), "a sign begins the lease again"
    now[0] += 50
    assert not lives.is_dead(replace(attempt, beat=6.0))
    now[0] += 20
    assert lives.is_dead(replace(attempt, beat=6.0))


@pytest.mark.parametrize(
    ("environment", "gpus"),
    [
        ({"CUDA_VISIBLE_DEVICES": "0,2"}, ["0", "2"]),
        ({"CUDA_VISIBLE_DEVICES": ""}, []),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, []),
    ],
)
def test_the_gpus_are_those_the_environment_leaves(
    environment: dict[str, str], gpus: list[str]
) -> None:
    assert visible_gpus(environment) == gpus


@pytest.mark.parametrize(
    ("workers", "gpus", "per_trial", "expected"),
    [
        (2, ["0", "1"], None, ["0", "1"]),
        (2, ["3", "5", "6", "7"], 2, ["3,5", "6,7"]),
        (3, ["0", "1"], None, [None, None, None]),
        (2, ["0", "1"], 0, [None, None]),
        (1, [], None, [None]),
    ],
)
def test_each_worker_has_gpus_of_its_own_or_all_share(
    workers: int, gpus: list[str], per_trial: int | None, expected: list[str | None]
) -> None:
    given = shares(workers, gpus=gpus, per_trial=per_trial, environment={})
    assert [item.get("CUDA_VISIBLE_DEVICES") for item in given] == expected


def test_too_few_gpus_are_told() -> None:
    with pytest.raises(UsageError, match="need 4, and 2 are here"):
        shares(2, gpus=["0", "1"], per_trial=2, environment={})


def test_workers_share_the_cores_unless_the_user_says_otherwise() -> None:
    def threads(workers: int, environment: dict[str, Any]) -> str | None:
        given = shares(workers, gpus=[], per_trial=None, environment=environment)
        return given[0].get("OMP_NUM_THREADS")

    assert threads(1, {}) is None
    assert threads(2, {}) == str(max((os.cpu_count() or 1) // 2, 1))
    assert threads(2, {"OMP_NUM_THREADS": "3"}) is None
