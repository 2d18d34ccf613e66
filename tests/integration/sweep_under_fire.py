"""A sweep on the simulated surface whose worker processes are killed at random instants.

``python sweep_under_fire.py FOLDER WORKERS KILLS SEED [SWEEPER] [STUDY]`` keeps so many workers
alive, kills them one by one with SIGKILL, and lets the rest of the work be done in the end. Prints
what came out as JSON.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

import optuna  # noqa: F401  # loaded once, before the workers are forked
from sweep_parts import make_goal

from llmforge.sweeps.ledger import Ledger
from llmforge.sweeps.trial_storage import open_storage
from llmforge.sweeps.worker import Worker
from llmforge.testing import SimulatedTrials

OPTIONS = {"pruner": "asha", "steps_per_rung": 20, "reduction": 2, "rungs": 3}
TRIALS = 12
TRIAL_SECONDS = 0.9
LIFE_SECONDS = 0.25


def open_ledger(folder: Path, study: str | None) -> Ledger:
    """Open the sweep's ledger, as each process does for itself."""
    return Ledger(open_storage(study, journal=folder / "journal.log", wait=True), "under-fire")


def work(folder: Path, sweeper: str, study: str | None) -> None:
    """Be a worker until everything is done."""
    goal = make_goal(sweeper, max_trials=TRIALS, seed=5, options=OPTIONS)
    executor = SimulatedTrials(folder / "simulated", steps=100, every=10, seconds=TRIAL_SECONDS)
    Worker(goal, open_ledger(folder, study), executor, poll_seconds=0.02).run()


def start(folder: Path, sweeper: str, study: str | None) -> int:
    """Fork a worker and return its process id."""
    pid = os.fork()
    if pid == 0:
        try:
            work(folder, sweeper, study)
        except BaseException as error:
            print(f"worker: {error!r}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return pid


def fire(folder: Path, workers: int, kills: int, seed: int, sweeper: str, study: str | None) -> int:
    """Keep workers alive and kill them; return how many were killed before all was done."""
    generator = random.Random(seed)
    alive = [start(folder, sweeper, study) for _ in range(workers)]
    killed = 0
    while killed < kills and alive:
        time.sleep(generator.uniform(0, LIFE_SECONDS))
        victim = alive.pop(generator.randrange(len(alive)))
        os.kill(victim, signal.SIGKILL)
        _, status = os.waitpid(victim, 0)
        if not os.WIFSIGNALED(status):
            break  # it had ended by itself: everything is done
        killed += 1
        alive.append(start(folder, sweeper, study))
    for pid in alive:
        _, status = os.waitpid(pid, 0)
        assert status == 0, f"a worker failed with status {status}"
    return killed


def main() -> None:
    """Run the sweep named on the command line."""
    folder, workers, kills, seed, *rest = sys.argv[1:]
    sweeper = rest[0] if rest else "random"
    study = rest[1] if len(rest) > 1 else None
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    open_ledger(place, study)  # made once, before the workers race for it
    began = time.monotonic()
    killed = fire(place, int(workers), int(kills), int(seed), sweeper, study)
    seconds = time.monotonic() - began
    trials = [
        {
            "number": trial.number,
            "parameters": dict(trial.parameters),
            "state": trial.state,
            "value": trial.value,
            "curve": trial.curve,
            "run": trial.run["id"],
            "completions": sum(
                item.result is not None and item.result.outcome == "completed"
                for item in trial.attempts
            ),
            "attempts": len(trial.attempts),
        }
        for trial in open_ledger(place, study).trials()
    ]
    print(json.dumps({"killed": killed, "seconds": seconds, "trials": trials}))


if __name__ == "__main__":
    main()
