"""Kill -9 at any instant, the same command again: the result is that of a run never killed."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Reference
from forge_process import ForgeProcess, Workplace, finishing, saving, stepping

INSTANTS: tuple[Callable[[ForgeProcess], bool], ...] = (
    stepping,
    saving,
    stepping,
    saving,
    finishing,
)


def kill_until_done(workplace: Workplace, *, kills: int, seed: int) -> int:
    """Start, kill and start again until the run is done; return the kills it took."""
    draw = random.Random(seed)
    instants = itertools.cycle(INSTANTS)
    for killed in range(kills):
        instant = next(instants)
        process = workplace.start()
        reached = process.wait_for(instant)
        time.sleep(draw.uniform(0.0, 0.4 if instant is stepping else 0.01))
        if not reached or process.process.poll() is not None:
            process.finish(expect=0)
            return killed
        process.kill()
    workplace.train()
    return kills


@pytest.mark.parametrize("precision", ["bf16"])
def test_a_run_killed_and_restarted_ends_as_one_never_killed(
    tmp_path: Path, reference: Reference, precision: str
) -> None:
    workplace = Workplace(tmp_path, {"train.precision": precision})
    assert kill_until_done(workplace, kills=4, seed=11) >= 3
    assert workplace.result() == reference(precision).result()
    assert workplace.record["restarts"] >= 4


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_twenty_kills_at_random_instants_leave_no_trace(
    tmp_path: Path, reference: Reference, precision: str
) -> None:
    killed = 0
    for number in itertools.count():
        workplace = Workplace(tmp_path / str(number), {"train.precision": precision})
        killed += kill_until_done(workplace, kills=20 - killed, seed=number)
        assert workplace.result() == reference(precision).result()
        if killed >= 20:
            return
