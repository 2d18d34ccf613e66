"""One courier for each run."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from llmforge.courier import has_courier
from llmforge.courier.lock import only_courier
from llmforge.errors import RunLockedError
from llmforge.rundir import RunDirectory


def test_a_second_courier_waits_and_is_then_refused(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "my-run")
    assert not has_courier(run)
    with only_courier(run, wait=0):
        assert has_courier(run)
        began = time.monotonic()
        with pytest.raises(RunLockedError, match="delivers and uploads for run my-run already"):
            only_courier(run, wait=0.3)
        assert time.monotonic() - began >= 0.3
    assert not has_courier(run)


def test_a_courier_takes_over_when_the_one_before_is_gone(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "my-run")
    first = only_courier(run, wait=0)
    threading.Timer(0.2, first.close).start()
    with only_courier(run, wait=20):
        assert has_courier(run)
